"""What the report says.

The chosen points, the headline on the test half, the paper's protocol, and the paired tests.

Runs that share model, task and combine form a group; its entries are seeds. Everything is chosen within a
seed; a group's row is the mean over seeds, with the standard deviation over seeds and the interval of the
prompts kept apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from evaluation import quality, selection, statistics
from evaluation.judges import agreement, corrected_rate, sensitivity_specificity
from evaluation.results import Entry, Point, Rows, of_role, outcomes, primary, read_jsonl

ORDER = (
    "aligned",
    "finetuned",
    "safeinstruct",
    "resta",
    "scale",
    "safelora",
    "full",
    "safemerge",
    "random",
    "highest",
)
CONTROLS = ("random", "highest")
Chosen = dict[str, Point]
MISSING = math.nan


def analyse(
    entries: list[Entry], *, keep: float = selection.KEEP, slack: float = selection.SLACK
) -> list[dict[str, Any]]:
    """One dict per group, in order of first appearance."""
    groups: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.key, []).append(entry)
    return [_group(members, keep, slack) for members in groups.values()]


def _group(entries: list[Entry], keep: float, slack: float) -> dict[str, Any]:
    first = entries[0]
    honest = [choose_points(entry, "dev", keep, slack) for entry in entries]
    best = [choose_points(entry, "all", keep, slack) for entry in entries]
    utility = first.benchmarks("utility")
    return {
        "model": first.spec["model"],
        "task": first.spec["task"],
        "combine": str(first.spec.get("combine") or ""),
        "seeds": [entry.spec["seed"] for entry in entries],
        "utility": utility[0] if utility else None,
        "harm": first.benchmarks("harm"),
        "over_refusal": first.benchmarks("over_refusal"),
        "judge": first.judge,
        "rule": selection.rule_text(keep, slack),
        "headline": headline(entries, [chosen for chosen, _ in honest], "test"),
        "paper": headline(entries, [chosen for chosen, _ in best], "all"),
        "choices": [c for _, choices in honest for c in choices],
        "tests": [t for e, (chosen, _) in zip(entries, honest, strict=True) for t in tests(e, chosen)],
        "categories": categories(entries, [chosen for chosen, _ in honest]),
        "calibration": calibration(entries),
        "agreement": agreements(entries),
        "guards": guards(entries),
        "quality": qualities(entries, [chosen for chosen, _ in honest]),
        "power": power(entries, [chosen for chosen, _ in honest]),
        "notes": notes(entries),
    }


def name_of(point: Point, entry: Entry) -> str:
    """The method, with the way of combining where a run holds several."""
    ways = {p.spec.get("combine") for p in entry.points if p.method == point.method}
    return point.method if len(ways) < 2 else f"{point.method} ({point.spec.get('combine')})"


def rate_of(entry: Entry, point: Point | None, benchmark: str | None, split: str) -> statistics.Rate:
    """The headline rate of a point on a benchmark; NaN with n = 0 when it has none."""
    if point is None or benchmark is None or benchmark not in point.scored:
        return statistics.rate([])
    return statistics.rate(of_role(entry, point, benchmark, split))


def choose_points(
    entry: Entry, split: str, keep: float = selection.KEEP, slack: float = selection.SLACK
) -> tuple[Chosen, list[dict[str, Any]]]:
    """One point per method, chosen on `split`.

    Controls are matched to safemerge's number of modules and alpha.
    """
    families: dict[str, list[Point]] = {}
    for point in entry.points:
        families.setdefault(name_of(point, entry), []).append(point)
    harm, utility = (next(iter(entry.benchmarks(role)), None) for role in ("harm", "utility"))
    reference = {p.method: rate_of(entry, p, utility, split).value for p in reversed(entry.points)}
    aligned, finetuned = reference.get("aligned", MISSING), reference.get("finetuned", MISSING)
    chosen: Chosen = {}
    choices = []
    for name, points in sorted(families.items(), key=lambda item: item[1][0].method in CONTROLS):
        method = points[0].method
        if method in CONTROLS and "safemerge" in {p.method for p in chosen.values()}:
            target = next(p for p in chosen.values() if p.method == "safemerge")
            chosen[name] = min(points, key=lambda p: _distance(p, target))
            continue
        candidates = [
            selection.Candidate(
                i,
                rate_of(entry, point, harm, split).value,
                rate_of(entry, point, utility, split).value,
                point.spec.get("merged_modules") or 0,
            )
            for i, point in enumerate(points)
        ]
        choice = selection.choose(candidates, aligned, finetuned, keep=keep, slack=slack)
        chosen[name] = points[choice.index]
        if len(points) > 1 or method == "safemerge":
            choices.append(
                {
                    "seed": entry.spec["seed"],
                    "method": name,
                    "label": chosen[name].label,
                    "of": len(points),
                    "floor": choice.floor,
                    "met": choice.met,
                    "harm": candidates[choice.index].harm,
                    "utility": candidates[choice.index].utility,
                }
            )
    return dict(sorted(chosen.items(), key=lambda item: _rank(item[1].method))), choices


def _rank(method: str) -> int:
    return ORDER.index(method) if method in ORDER else len(ORDER)


def _distance(point: Point, target: Point) -> tuple[float, float]:
    def gap(key: str) -> float:
        return abs((point.spec.get(key) or 0) - (target.spec.get(key) or 0))

    return gap("merged_modules"), gap("alpha")


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
                "affected": sorted({g["name"] for e, p in pairs for g in failed_guards(e, p)}),
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


def calibration(entries: list[Entry]) -> Rows:
    """Sensitivity and specificity of every judge that has a calibration set, per seed when they differ."""
    rows: Rows = []
    for entry in entries:
        for judge, its in (entry.spec.get("judges") or {}).items():
            counts = (its or {}).get("calibration")
            if not counts or any(r["judge"] == judge and r["counts"] == counts for r in rows):
                continue
            se, sp = sensitivity_specificity(counts)
            rows.append(
                {
                    "judge": judge,
                    "primary": judge == entry.judge,
                    "seed": entry.spec["seed"],
                    "counts": counts,
                    "sensitivity": vars(se),
                    "specificity": vars(sp),
                }
            )
    return rows


def agreements(entries: list[Entry]) -> Rows:
    """Every judge against the primary one, per harm benchmark, over all points of all seeds."""
    rows = []
    for benchmark in entries[0].benchmarks("harm"):
        others = {j for e in entries for p in e.points for j in p.scored.get(benchmark, {}) if j != e.judge}
        for judge in sorted(others):
            left, right = [], []
            for index, (entry, point) in enumerate((e, p) for e in entries for p in e.points):
                scored = point.scored.get(benchmark, {})
                if judge in scored and entry.judge in scored:
                    left += [{**r, "id": (index, r["id"])} for r in scored[entry.judge]]
                    right += [{**r, "id": (index, r["id"])} for r in scored[judge]]
            if left:
                rows.append(
                    {
                        "benchmark": benchmark,
                        "judges": [entries[0].judge, judge],
                        **agreement(left, right),
                    }
                )
    return rows


def failed_guards(entry: Entry, point: Point) -> Rows:
    """Failed guards of the entry that concern this point.

    Those that name it in `affects`, and those that name nothing.
    """
    return [
        guard
        for guard in entry.spec.get("guards") or []
        if guard["status"] == "fail"
        and (not guard.get("affects") or {point.label, point.method} & set(guard["affects"]))
    ]


def guards(entries: list[Entry]) -> Rows:
    """All guards, failures first."""
    rows = [{"seed": e.spec["seed"], **guard} for e in entries for guard in e.spec.get("guards") or []]
    return sorted(rows, key=lambda g: {"fail": 0, "warn": 1}.get(g["status"], 2))


def qualities(entries: list[Entry], chosen: list[Chosen]) -> Rows:
    """Shares of empty, truncated, repetitive and incoherent completions and of invalid verdicts, all
    prompts, over seeds.
    """
    rows = []
    for name in dict.fromkeys(name for points in chosen for name in points):
        pairs = [(e, points[name]) for e, points in zip(entries, chosen, strict=True) if name in points]
        for benchmark, role in entries[0].roles.items():
            texts = [row for _, p in pairs for row in p.completions.get(benchmark, [])]
            if texts:
                invalid = sum(row["invalid"] for e, p in pairs for row in primary(e, p, benchmark))
                counts = {**quality.shares(texts, prose=role != "utility"), "invalid": invalid}
                rows.append({"name": name, "benchmark": benchmark, "n": len(texts), **counts})
    return rows


def power(entries: list[Entry], chosen: list[Chosen]) -> Rows:
    """Per benchmark: the test half's n and the smallest difference from the fine-tuned rate that it can
    show.
    """
    rows = []
    base = next((p for p in chosen[0].values() if p.method == "finetuned"), None)
    for benchmark in entries[0].roles:
        rate = rate_of(entries[0], base, benchmark, "test")
        if rate.n:
            least = statistics.detectable_difference(rate.n, rate.value)
            rows.append({"benchmark": benchmark, "n": rate.n, "rate": rate.value, "difference": least})
    return rows


def notes(entries: list[Entry]) -> list[str]:
    """What a reader must know about the model itself."""
    if str(entries[0].spec["model"]).lower().startswith("smollm2"):
        return [
            "SmolLM2-135M: the packaged SmolLM2-135M-Instruct weights serve as the *unaligned* (base) "
            "member of the pair; "
            "they comply with most harmful requests. The aligned member is those weights after a "
            "safety-tuning stage of ours."
        ]
    return []


def training_curves(entry: Entry) -> dict[str, Rows]:
    """The training logs by name, rows that have a loss."""
    logs = {
        name: read_jsonl(entry.path(path))
        for name, path in (entry.spec.get("training") or {}).items()
        if path
    }
    return {name: [row for row in rows if row.get("loss") is not None] for name, rows in logs.items()}
