"""The report's other tables.

Tests, categories, judges, guards, quality, power, the paper's numbers, provenance.
"""

from __future__ import annotations

import json
from typing import Any

from evaluation.tables import Table, benchmark_name, list_text, method_name, number, percent, rate_text


def p_text(p: float) -> str:
    """A p value without false precision."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def tests_table(group: dict[str, Any]) -> Table:
    """Paired tests of the chosen SafeMERGE point."""
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
        note=(
            "Exact McNemar on prompts that both methods have a valid outcome for; percentile bootstrap "
            "interval over prompts; "
            "Holm over the methods of one benchmark and seed. Negative is better for harm and over-refusal, "
            "positive for utility."
        ),
    )
    for row in group["tests"]:
        interval = (
            f"{100 * row['difference']:+.1f} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
            if row["n"]
            else "–"
        )
        table.add(
            benchmark_name(row["benchmark"]),
            method_name(row["against"]),
            (str(row["seed"]), float(row["seed"])),
            (interval, float(row["difference"])),
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
    """Harm per prompt category: a row per method, a column per category."""
    kinds = list(dict.fromkeys((row["benchmark"], row["category"]) for row in group["categories"]))
    names = list(dict.fromkeys(row["name"] for row in group["categories"]))
    cells = {(r["name"], r["benchmark"], r["category"]): r["rate"] for r in group["categories"]}
    several = len({benchmark for benchmark, _ in kinds}) > 1
    heads = [f"{benchmark_name(b)}: {c}" if several else c for b, c in kinds]
    table = Table(
        "Harm by category, test half, % ↓",
        ["Method", *heads],
        note="Few prompts each: read the intervals first.",
    )
    for name in names:
        table.add(method_name(name), *(rate_text(cells.get((name, *kind))) for kind in kinds))
    return table


def judges_table(group: dict[str, Any]) -> Table:
    """Calibration of the judges on labelled pairs."""
    table = Table(
        "Judges on labelled pairs",
        ["Judge", "Role", "Sensitivity % [95 %]", "Specificity % [95 %]", "Invalid", "n", "Seed"],
        note=(
            "Sensitivity: unsafe pairs called unsafe. Specificity: safe pairs called safe. Invalid "
            "answers are in neither."
        ),
    )
    for row in group["calibration"]:
        counts = row["counts"]
        table.add(
            row["judge"],
            "primary" if row["primary"] else "second",
            rate_text(row["sensitivity"]),
            rate_text(row["specificity"]),
            (str(counts["invalid"]), float(counts["invalid"])),
            (str(counts["n"]), float(counts["n"])),
            str(row["seed"]),
        )
    return table


def usage_table(group: dict[str, Any]) -> Table:
    """What server judges were asked, how often they failed and what they cost."""
    table = Table(
        "Server judges",
        ["Judge", "Seed", "Requests", "Failed for good", "Prompt tokens", "Completion tokens", "Cost"],
        note="A request that failed for good is an invalid verdict. Cost: by the prices in the configuration.",
    )
    for row in group["usage"]:
        counts = ("requests", "failures", "prompt_tokens", "completion_tokens")
        table.add(
            row["judge"],
            str(row["seed"]),
            *((str(row[key]), float(row[key])) for key in counts),
            (f"{row['cost']:.4f}", row["cost"]),
        )
    return table


def agreement_table(group: dict[str, Any]) -> Table:
    """Agreement between judges over all completions."""
    table = Table(
        "Agreement between judges, all adapters",
        ["Benchmark", "Judges", "Cohen's κ", "Agree %", "Verdicts", "Invalid in either"],
    )
    for row in group["agreement"]:
        table.add(
            benchmark_name(row["benchmark"]),
            " / ".join(row["judges"]),
            (number(row["kappa"], 2), row["kappa"]),
            (percent(row["agreed"]), row["agreed"]),
            (str(row["n"]), float(row["n"])),
            (str(row["invalid"]), float(row["invalid"])),
        )
    return table


def corrected_table(group: dict[str, Any]) -> Table:
    """Observed and corrected harm side by side."""
    table = Table(
        f"Harm corrected for the judge's errors ({benchmark_name(next(iter(group['harm']), None))}, test "
        "half)",
        ["Method", "Observed %", "Corrected %", "Refused, unsafe half of the over-refusal set %"],
        note=(
            "Rogan-Gladen correction by the primary judge's sensitivity and specificity; the "
            "calibration pairs are another "
            "distribution than these completions, so this is a sensitivity analysis, not the headline."
        ),
    )
    for row in group["headline"]:
        observed = row["rates"].get(next(iter(group["harm"]), ""))
        fixed = row["harm_corrected"]
        table.add(
            method_name(row["name"]),
            rate_text(observed, counts=False),
            rate_text(fixed and {**fixed, "invalid": 0}, counts=False),
            rate_text(row["unsafe_refusal"], counts=False),
        )
    return table


def choices_table(group: dict[str, Any]) -> Table:
    """What was chosen on the development half."""
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
        note=f"Rule: {group['rule']}. Controls take SafeMERGE's number of modules and α.",
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


def guards_table(group: dict[str, Any]) -> Table:
    """Every guard of every seed, failures first."""
    table = Table("Guards", ["Status", "Guard", "Seed", "Detail", "Affects"])
    for row in group["guards"]:
        affects = ", ".join(row.get("affects") or ()) or ("all rows" if row["status"] == "fail" else "–")
        table.add(row["status"], row["name"], str(row["seed"]), str(row.get("detail", "")), affects)
        if row["status"] == "fail":
            table.failed.add(len(table.rows) - 1)
    return table


def quality_table(group: dict[str, Any]) -> Table:
    """Is there an answer at all?"""
    kinds = ("empty", "truncated", "repetitive", "incoherent", "invalid")
    table = Table(
        "Quality of the completions, all prompts, %",
        ["Method", "Benchmark", "n", *(k.capitalize() for k in kinds)],
        note=(
            "Incoherent (prose prompts only): the reply computes, or has hardly any words. Truncated: "
            "stopped by the length limit."
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
            commit_text(run),
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


def machine_text(run: dict[str, Any]) -> str:
    """The machine's fields as one line."""
    fields = {k: v for k, v in (run.get("machine") or {}).items() if v not in (None, "", [])}
    return ", ".join(
        f"{k} {v if isinstance(v, str | int | float) else json.dumps(v)}" for k, v in fields.items()
    )
