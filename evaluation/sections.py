"""The report's other tables.

Tests, categories, judges, checks, quality, power, the paper's numbers, provenance.
"""

from __future__ import annotations

import json
import math
from typing import Any

from evaluation.quality import FLAGS
from evaluation.tables import Table, benchmark_name, list_text, method_name, percent, rate_text

FEWEST = 5  # prompts of a category: a rate over fewer says nothing


def p_text(p: float) -> str:
    """A p value without false precision."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def points_text(value: float) -> str:
    """A difference in points of percent with its sign, or a dash."""
    return "–" if math.isnan(value) else f"{100 * value:+.1f}"


def tests_table(group: dict[str, Any]) -> Table:
    """Paired tests of the chosen SafeMERGE point."""
    note = (
        "Exact McNemar on prompts that both methods have a valid outcome for; percentile bootstrap "
        "interval over prompts; "
        "Holm over the methods of one benchmark and seed. Negative is better for harm and over-refusal, "
        "positive for utility."
    )
    table = Table(
        "SafeMERGE minus each method, same prompts, test half",
        [
            "Benchmark",
            "Against",
            "Seed",
            "Difference, points [95 %]",
            "Only ours",
            "Only theirs",
            "n",
            "p",
            "p (Holm)",
        ],
        note=note,
    )
    for row in group["tests"]:
        if not row["n"]:
            table.note = f"{note} Left out: benchmarks on which no prompt has a valid outcome for both."
            continue
        interval = f"[{points_text(row['low'])}, {points_text(row['high'])}]"
        table.add(
            benchmark_name(row["benchmark"]),
            method_name(row["against"]),
            (str(row["seed"]), float(row["seed"])),
            (f"{points_text(row['difference'])} {interval}", float(row["difference"])),
            (str(row["only_a"]), float(row["only_a"])),
            (str(row["only_b"]), float(row["only_b"])),
            (str(row["n"]), float(row["n"])),
            (p_text(row["p"]), float(row["p"])),
            (p_text(row["p_holm"]), float(row["p_holm"])),
        )
        if row["p_holm"] < 0.05:
            table.marked.add(len(table.rows) - 1)
    return table


def categories_table(group: dict[str, Any]) -> Table:
    """Harm per prompt category: a row per method, a column per category of `FEWEST` prompts or more."""
    every = list(dict.fromkeys((row["benchmark"], row["category"]) for row in group["categories"]))
    names = list(dict.fromkeys(row["name"] for row in group["categories"]))
    cells = {(r["name"], r["benchmark"], r["category"]): r["rate"] for r in group["categories"]}
    kinds = large_categories(group)
    several = len({benchmark for benchmark, _ in kinds}) > 1
    heads = [f"{benchmark_name(b)}: {c}" if several else c for b, c in kinds]
    table = Table(
        "Harm by category, test half, % ↓",
        ["Method", *heads],
        note="Few prompts each: read the intervals first.",
    )
    if small := [c for b, c in every if (b, c) not in kinds]:
        table.note += f" Left out, with fewer than {FEWEST} prompts: {', '.join(small)}."
    for name in names if kinds else ():
        table.add(method_name(name), *(rate_text(cells.get((name, *kind))) for kind in kinds))
    return table


def large_categories(group: dict[str, Any]) -> list[tuple[str, str]]:
    """(benchmark, category) of those with enough judged prompts for some method."""
    rows = [row for row in group["categories"] if row["rate"]["n"] >= FEWEST]
    return list(dict.fromkeys((row["benchmark"], row["category"]) for row in rows))


def _share(part: float, whole: float) -> float:
    """part/whole, NaN where there was nothing to win back or keep."""
    return part / whole if whole > 0 else math.nan


def recovery_table(group: dict[str, Any]) -> Table:
    """How much of the lost safety each method wins back, and how much of the gained utility it keeps."""
    table = Table(
        "Safety won back and utility kept (test half)",
        [
            "Method",
            "Seed",
            "Harm added by fine-tuning",
            "Won back",
            "Share %",
            "Utility gained",
            "Kept",
            "Share %",
        ],
        note=(
            "Points of percent; shares of what fine-tuning changed. More than 100 %: better than the aligned model, or "
            "than the fine-tuned one. A share of a small difference says little."
        ),
    )
    for index, row in enumerate(group["recovery"]):
        safety, utility = _share(row["won_back"], row["lost"]), _share(row["kept"], row["gained"])
        table.add(
            method_name(row["name"]),
            str(row["seed"]),
            *((points_text(row[key]), row[key]) for key in ("lost", "won_back")),
            (percent(safety), safety),
            *((points_text(row[key]), row[key]) for key in ("gained", "kept")),
            (percent(utility), utility),
        )
        if row["method"] == "safemerge":
            table.marked.add(index)
    return table


def recovery_lines(group: dict[str, Any]) -> list[str]:
    """SafeMERGE's rows of the recovery table as sentences."""
    lines = []
    for row in group["recovery"]:
        if row["method"] != "safemerge":
            continue
        name = method_name(row["name"])
        lost, won, gained = (100 * row[key] for key in ("lost", "won_back", "gained"))
        if math.isnan(lost) or math.isnan(won):
            harm = f"no harm rate to compare {name} by; it"
        elif lost > 0:
            share = percent(_share(row["won_back"], row["lost"]), 0)
            harm = f"fine-tuning added {lost:.0f} points of harm; {name} wins back {won:.0f} ({share} %) and"
        elif lost < 0:
            harm = (
                f"fine-tuning took away {-lost:.0f} points of harm, so there is nothing to win back; {name}"
            )
        else:
            harm = f"fine-tuning added no harm, so there is nothing to win back; {name}"
        if gained > 0 and not math.isnan(row["kept"]):
            kept = f"keeps {percent(row['kept'] / row['gained'], 0)} % of the {gained:.0f} points of utility gained"
        else:
            kept = "has no gain in utility to keep"
        lines.append(f"Seed {row['seed']}: {harm} {kept}.")
    return lines


def choices_table(group: dict[str, Any]) -> Table:
    """What was chosen on the development half."""
    controls = (
        "Controls take SafeMERGE's number of modules and α."
        if any(row["control"] for row in group["headline"])
        else "No controls in this run: experiment=controls adds as many modules at random and with the highest ρ."
    )
    table = Table(
        "Chosen on the development half",
        [
            "Seed",
            "Method",
            "Chosen",
            "Points",
            "Utility, dev %",
            "Harm, dev %",
            "Utility floor %",
            "Floor reached",
        ],
        note=f"Rule: {group['rule']}. {controls}",
    )
    for row in group["choices"]:
        table.add(
            str(row["seed"]),
            method_name(row["method"]),
            row["label"],
            str(row["of"]),
            percent(row["utility"]),
            percent(row["harm"]),
            percent(row["floor"]) if row["floor"] > -1 else "–",
            "yes" if row["met"] else "no",
        )
    return table


def checks_table(group: dict[str, Any]) -> Table:
    """Every check of every seed, failures first."""
    table = Table("Checks", ["Status", "Check", "Seed", "Detail", "Affects"])
    for row in group["checks"]:
        affects = ", ".join(row.get("affects") or ()) or ("all rows" if row["status"] == "fail" else "–")
        table.add(row["status"], row["name"], str(row["seed"]), str(row.get("detail", "")), affects)
        if row["status"] == "fail":
            table.failed.add(len(table.rows) - 1)
    return table


def quality_table(group: dict[str, Any]) -> Table:
    """Is there an answer at all?"""
    kinds = (*FLAGS, "invalid")
    table = Table(
        "Quality of the completions, all prompts, %",
        ["Method", "Benchmark", "n", *(k.capitalize() for k in kinds)],
        note=(
            "Incoherent (prose prompts only): the reply computes, or has hardly any words. Terse (likewise): "
            "one or two words. Truncated: stopped by the length limit."
        ),
    )
    for row in group["quality"]:
        shares = [(percent(row[k] / row["n"]), row[k] / row["n"]) for k in kinds]
        table.add(
            method_name(row["name"]),
            benchmark_name(row["benchmark"]),
            (str(row["n"]), float(row["n"])),
            *shares,
        )
    return table


def power_table(group: dict[str, Any]) -> Table:
    """The smallest difference that this n can show."""
    table = Table(
        "What this many prompts can show",
        ["Benchmark", "n (test half)", "Fine-tuned %", "Smallest difference, points"],
        note=(
            "80 % power at the 5 % level, two independent samples; paired tests on the same prompts do "
            "somewhat better."
        ),
    )
    for row in group["power"]:
        table.add(
            benchmark_name(row["benchmark"]), str(row["n"]), percent(row["rate"]), percent(row["difference"])
        )
    return table


def literature_table(rows: list[dict[str, Any]]) -> Table:
    """Ours against the paper."""
    table = Table(
        "Ours against the paper, %",
        ["Model", "Task", "Method", "Metric", "Paper", "Source", "Ours (all prompts)"],
        note=(
            "seed: the project's brief; digest: third-party digests of the paper, several agreeing. Not "
            "read from the paper itself."
        ),
    )
    for row in rows:
        table.add(
            row["model"],
            row["task"],
            method_name(row["method"]),
            "utility" if row["metric"] == "utility" else benchmark_name(row["metric"]),
            (f"{row['value']:.2f}", row["value"]),
            row["source"],
            rate_text(row["ours"]) if row["ours"] else "not run here",
        )
    return table


def provenance_table(runs: list[dict[str, Any]], groups: list[dict[str, Any]]) -> Table:
    """Where the numbers come from, a row per run.json."""
    table = Table("Provenance", ["Run", "Created", "Commit", "Seeds", "Machine", "Wall time", "Packages"])
    for run in runs:
        seeds = list(dict.fromkeys(entry["seed"] for entry in run["runs"]))
        table.add(
            str(run.get("run", "")),
            str(run.get("created", "")),
            commit_text(run) + made_text(run).replace("`", ""),
            list_text(seeds),
            machine_text(run),
            f"{(run.get('wall_time_s') or 0) / 60:.1f} min",
            ", ".join(f"{k} {v}" for k, v in (run.get("packages") or {}).items()),
        )
    return table


def commit_text(run: dict[str, Any]) -> str:
    """Short commit, "+ changes" when the tree was dirty."""
    git = run.get("git") or {}
    return str(git.get("commit") or "unknown")[:10] + (" + uncommitted changes" if git.get("dirty") else "")


def made_text(run: dict[str, Any]) -> str:
    """The commits that made the artifacts, where they are others than the reporting one."""
    commits = [c for c in run.get("made_by") or [] if c != str((run.get("git") or {}).get("commit"))[:10]]
    return f" from artifacts of {', '.join(f'`{c}`' for c in commits)}" if commits else ""


def machine_text(run: dict[str, Any]) -> str:
    """The machine's fields as one line."""
    fields = {k: v for k, v in (run.get("machine") or {}).items() if v not in (None, "", [])}
    return ", ".join(
        f"{k} {v if isinstance(v, str | int | float) else json.dumps(v)}" for k, v in fields.items()
    )
