"""What the report says.

The chosen points, the headline on the test half, the paper's protocol, and the paired tests.

Runs that share model, task, data and precision form a group; its entries are seeds. Everything is chosen within a
seed; a group's row is the mean over seeds, with the standard deviation over seeds and the interval of the
prompts kept apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from evaluation import selection, soundness, statistics
from evaluation.choosing import CONTROLS, Chosen, choose_points, rate_of
from evaluation.judges import corrected_rate
from evaluation.results import Entry, Point, Rows, of_role, outcomes, primary


def analyse(
    entries: list[Entry], *, keep: float = selection.KEEP, slack: float = selection.SLACK
) -> list[dict[str, Any]]:
    """One dict per group, in order of first appearance."""
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.key, []).append(entry)
    return [_group(members, keep, slack) for members in groups.values()]


def _group(entries: list[Entry], keep: float, slack: float) -> dict[str, Any]:
    first = entries[0]
    honest = [choose_points(entry, "dev", keep, slack) for entry in entries]
    whole = all(p.answered(b, "all") for e in entries for p in e.points for b in p.completions)
    best = [choose_points(entry, "all", keep, slack) for entry in entries] if whole else []
    utility = first.benchmarks("utility")
    return {
        "model": first.spec["model"],
        "task": first.spec["task"],
        "data": str(first.spec.get("data") or ""),
        "precision": first.key[-1],
        "key": list(first.key),
        "seeds": [entry.spec["seed"] for entry in entries],
        "utility": utility[0] if utility else None,
        "harm": first.benchmarks("harm"),
        "over_refusal": first.benchmarks("over_refusal"),
        "judge": first.judge,
        "rule": selection.rule_text(keep, slack),
        "headline": headline(entries, [chosen for chosen, _ in honest], "test"),
        "paper": headline(entries, [chosen for chosen, _ in best], "all") if whole else [],
        "recovery": recovery(entries, [chosen for chosen, _ in honest]),
        "choices": [c for _, choices in honest for c in choices],
        "tests": [t for e, (chosen, _) in zip(entries, honest, strict=True) for t in tests(e, chosen)],
        "categories": categories(entries, [chosen for chosen, _ in honest]),
        "calibration": soundness.calibration(entries),
        "usage": soundness.usage(entries),
        "agreement": soundness.agreements(entries),
        "checks": soundness.checks(entries),
        "quality": soundness.qualities(entries, [chosen for chosen, _ in honest]),
        "power": soundness.power(entries, [chosen for chosen, _ in honest]),
        "notes": soundness.notes(entries),
    }


def headline(entries: list[Entry], chosen: list[Chosen], split: str) -> Rows:
    """A row per method: settings, modules, and the rates of every benchmark over the seeds."""
    rows = []
    for name in dict.fromkeys(name for points in chosen for name in points):
        pairs = [(e, points[name]) for e, points in zip(entries, chosen, strict=True) if name in points]
        first = pairs[0][1]
        rows.append(
            {
                "name": name,
                "method": first.method,
                "control": first.method in CONTROLS,
                "tau": _several(p.spec.get("tau") for _, p in pairs),
                "tau_setting": _several(p.spec.get("tau_setting") for _, p in pairs),
                "alpha": _several(p.spec.get("alpha") for _, p in pairs),
                "combine": _several(p.spec.get("combine") for _, p in pairs),
                "labels": [p.label for _, p in pairs],
                "merged": _several(p.spec.get("merged_modules") for _, p in pairs),
                "modules": _several(p.spec.get("modules") for _, p in pairs),
                "rates": {b: _over_seeds(pairs, b, split) for b in entries[0].roles},
                "unsafe_refusal": _unsafe_refusal(pairs, split),
                "harm_corrected": _corrected(pairs, split),
                "not_refused": _not_refused(pairs, split),
                "affected": sorted({g["name"] for e, p in pairs for g in soundness.failed_checks(e, p)}),
            }
        )
    return rows


def _several(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(value for value in values if value is not None))


def _over_seeds(pairs: list[tuple[Entry, Point]], benchmark: str, split: str) -> dict[str, Any]:
    rates = [rate_of(entry, point, benchmark, split) for entry, point in pairs]
    invalid = sum(
        row["invalid"] and split in ("all", row["half"]) and row.get("benign", True)
        for entry, point in pairs
        for row in primary(entry, point, benchmark)
    )
    return summary(rates, invalid)


def summary(rates: list[statistics.Rate], invalid: int = 0) -> dict[str, Any]:
    """Rates of the seeds as one.

    Value is their mean, the interval is that of one seed's prompts, sd is over seeds.
    """
    known = [rate for rate in rates if rate.n]
    mean, sd, count = statistics.seeds([rate.value for rate in known])
    n = round(sum(rate.n for rate in known) / len(known)) if known else 0
    one = known[0] if len(known) == 1 else statistics.seed_rate([rate.value for rate in known], n)
    return {
        "k": one.k,
        "n": n,
        "value": mean,
        "low": one.low,
        "high": one.high,
        "sd": sd,
        "seeds": count,
        "values": [rate.value for rate in rates],
        "invalid": invalid,
    }


def _unsafe_refusal(pairs: list[tuple[Entry, Point]], split: str) -> dict[str, Any] | None:
    rates = []
    for entry, point in pairs:
        for benchmark in entry.benchmarks("over_refusal")[:1]:
            rows = [row for row in primary(entry, point, benchmark) if not row["benign"]]
            rates.append(statistics.rate(outcomes(rows, split, "refused")))
    return summary(rates) if any(rate.n for rate in rates) else None


def _corrected(pairs: list[tuple[Entry, Point]], split: str) -> dict[str, Any] | None:
    found = []
    for entry, point in pairs:
        counts = ((entry.spec.get("judges") or {}).get(entry.judge) or {}).get("calibration")
        observed = rate_of(entry, point, next(iter(entry.benchmarks("harm")), None), split)
        if counts and (rate := corrected_rate(observed, counts)):
            found.append(rate)
    if not found:
        return None
    both = summary(found)
    both["low"], both["high"] = (
        statistics.seeds([getattr(r, end) for r in found])[0] for end in ("low", "high")
    )
    return both


def _not_refused(pairs: list[tuple[Entry, Point]], split: str) -> dict[str, Any] | None:
    """Harm by the phrase judge: replies to harmful prompts that hold no refusal. None if it is the primary judge."""
    rates = []
    for entry, point in pairs:
        scored = point.scored.get(next(iter(entry.benchmarks("harm")), ""), {})
        if "refusal" in scored and entry.judge != "refusal":
            rates.append(statistics.rate(outcomes(scored["refusal"], split, "harmful")))
    return summary(rates) if any(rate.n for rate in rates) else None


def recovery(entries: list[Entry], chosen: list[Chosen]) -> Rows:
    """What fine-tuning cost and gained, and how much of either each chosen point leaves; per seed, test half.

    Rates in [0, 1]: `lost` is the harm that fine-tuning added to the aligned model, `won_back` how far a method is below
    the fine-tuned one again, `gained` the utility that fine-tuning added and `kept` how much of it a method still has.
    """
    rows: Rows = []
    for entry, points in zip(entries, chosen, strict=True):
        harm, utility = (next(iter(entry.benchmarks(role)), None) for role in ("harm", "utility"))
        ends = [next((p for p in points.values() if p.method == m), None) for m in ("aligned", "finetuned")]
        if harm is None or utility is None or None in ends:
            continue
        (bad, tuned_bad), (good, tuned_good) = (
            [rate_of(entry, p, b, "test").value for p in ends] for b in (harm, utility)
        )
        for name, point in points.items():
            if point in ends:
                continue
            rows.append(
                {
                    "seed": entry.spec["seed"],
                    "name": name,
                    "method": point.method,
                    "lost": tuned_bad - bad,
                    "won_back": tuned_bad - rate_of(entry, point, harm, "test").value,
                    "gained": tuned_good - good,
                    "kept": rate_of(entry, point, utility, "test").value - good,
                }
            )
    return rows


def tests(entry: Entry, chosen: Chosen) -> Rows:
    """Chosen SafeMERGE minus every other method, per benchmark, on the test half; Holm over the methods."""
    ours = next(((name, p) for name, p in chosen.items() if p.method == "safemerge"), None)
    rows: Rows = []
    for benchmark in entry.roles if ours else ():
        family: Rows = []
        for name, point in chosen.items():
            if (
                not ours
                or name == ours[0]
                or benchmark not in point.scored
                or benchmark not in ours[1].scored
            ):
                continue
            found = statistics.compare(
                of_role(entry, ours[1], benchmark, "test"), of_role(entry, point, benchmark, "test")
            )
            family.append(
                {
                    "seed": entry.spec["seed"],
                    "benchmark": benchmark,
                    "role": entry.roles[benchmark],
                    "against": name,
                    **vars(found),
                }
            )
        adjusted = statistics.holm([row["p"] for row in family])
        rows += [{**row, "p_holm": p} for row, p in zip(family, adjusted, strict=True)]
    return rows


def categories(entries: list[Entry], chosen: list[Chosen]) -> Rows:
    """Harm per prompt category on the test half, chosen points, over seeds."""
    rows = []
    for name in dict.fromkeys(name for points in chosen for name in points):
        pairs = [(e, points[name]) for e, points in zip(entries, chosen, strict=True) if name in points]
        for benchmark in entries[0].benchmarks("harm"):
            scored = [[r for r in primary(e, p, benchmark) if r["half"] == "test"] for e, p in pairs]
            for category in sorted({r["category"] for rs in scored for r in rs if r["category"]}):
                parts = [[r for r in rs if r["category"] == category] for rs in scored]
                rates = [statistics.rate([r["harmful"] for r in part]) for part in parts]
                invalid = sum(r["invalid"] for part in parts for r in part)
                rows.append(
                    {
                        "name": name,
                        "benchmark": benchmark,
                        "category": category,
                        "rate": summary(rates, invalid),
                    }
                )
    return rows
