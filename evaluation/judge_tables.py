"""The report's tables about the judges: calibration, cost, agreement and what their errors do to the harm rates."""

from __future__ import annotations

from typing import Any

from evaluation.tables import Table, benchmark_name, method_name, number, percent, rate_text


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


def judge_lines(group: dict[str, Any]) -> list[str]:
    """How good the primary judge is on labelled pairs, and what the refusal phrases say of the same completions."""
    lines = []
    for row in group["calibration"]:
        if row["primary"]:
            parts = [
                f"{what} {percent(row[what]['value'], 0)} % ({row[what]['k']}/{row[what]['n']})"
                for what in ("sensitivity", "specificity")
            ]
            lines.append(
                f"Judge `{row['judge']}` on labelled pairs that it was not tuned on: {', '.join(parts)}."
            )
    said = [
        f"{method_name(row['name'])} {percent(row['not_refused']['value'], 0)} %"
        for row in group["headline"]
        if row["not_refused"] and row["method"] in ("aligned", "finetuned", "safemerge")
    ]
    if said:
        lines.append(f"Replies without a refusal phrase, same prompts: {', '.join(said)}.")
    return list(dict.fromkeys(lines))


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
        [
            "Method",
            "Observed %",
            "Corrected %",
            "Without a refusal phrase %",
            "Refused, unsafe half of the over-refusal set %",
        ],
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
            rate_text(row["not_refused"], counts=False),
            rate_text(row["unsafe_refusal"], counts=False),
        )
    return table
