"""The report's tables about the judges: calibration, cost, agreement and what their errors do to the harm rates."""

from __future__ import annotations

import math

from evaluation.analysis import Group
from evaluation.judges import unmoved_rate
from evaluation.soundness import CalibrationRow
from evaluation.tables import Table, number, percent, rate_text


def judges_table(group: Group) -> Table:
    """Calibration of the judges on labelled pairs."""
    table = Table(
        "Judges on labelled pairs",
        [
            "Judge",
            "Role",
            "Sensitivity % [95 %]",
            "Specificity % [95 %]",
            "Invalid",
            "n",
            "Effective n",
            "Seed",
        ],
        note=(
            "Held-out pairs of harmful prompts: none of their prompts and replies has fitted a judge or set a threshold. "
            "Sensitivity: unsafe pairs called unsafe. Specificity: safe pairs called safe. Invalid answers are in "
            "neither. Several pairs have one prompt: effective n is how many independent ones the unsafe and the safe "
            "pairs are worth, and the intervals are Wilson's at that size."
        ),
    )
    for row in group.calibration:
        table.add(
            row.judge,
            "primary" if row.primary else "second",
            rate_text(row.sensitivity),
            rate_text(row.specificity),
            (str(row.counts.invalid), float(row.counts.invalid)),
            (str(row.counts.n), float(row.counts.n)),
            f"{row.counts.unsafe_effective:.0f}; {row.counts.safe_effective:.0f}",
            str(row.seed),
        )
    return table


def rules_table(group: Group) -> Table:
    """The held-out error rates of the fixed rules that the run's replies were read by."""
    table = Table(
        "Fixed rules on labelled replies that they were not tuned on",
        ["Rule", "Label of the reply", "Read rightly % [95 %]"],
        note=(
            "The replies were written and labelled for this repository before their author read the rules. They are not "
            "those of the models above: the rates say how the rules read many manners of replying, not how often they err "
            "on these benchmarks."
        ),
    )
    for row in group.rules:
        table.add(row.rule, row.label, rate_text(row.right))
    return table


def judge_lines(group: Group) -> list[str]:
    """How good the primary judge is on labelled pairs, and what the refusal phrases say of the same completions."""
    lines = []
    for row in group.calibration:
        if row.primary:
            parts = [
                f"{what} {percent(rate.value, 0)} % [{percent(rate.low, 0)}, {percent(rate.high, 0)}] ({rate.k:g}/{rate.n})"
                for what, rate in (("sensitivity", row.sensitivity), ("specificity", row.specificity))
            ]
            lines.append(
                f"Judge `{row.judge}` on held-out labelled pairs of harmful prompts: {', '.join(parts)}."
            )
    said = [
        f"{row.name} {percent(row.not_refused.value, 0)} %"
        for row in group.headline
        if row.not_refused and row.method in ("aligned", "finetuned", "safemerge")
    ]
    if said:
        mean = "mean over the seeds, " if len(group.seeds) > 1 else ""
        agreed = next((row.found for row in group.agreement if row.benchmark == group.first_harm), None)
        known = agreed is not None and not math.isnan(agreed.kappa)
        kappa = (
            f" Over all rows the two judges have Cohen's κ {agreed.kappa:.2f}." if agreed and known else ""
        )
        lines.append(f"Non-refusal rate by the phrase judge, {mean}same prompts: {', '.join(said)}.{kappa}")
    return list(dict.fromkeys(lines))


def usage_table(group: Group) -> Table:
    """What server judges were asked, how often they failed and what they cost."""
    table = Table(
        "Server judges",
        ["Judge", "Seed", "Requests", "Failed for good", "Prompt tokens", "Completion tokens", "Cost"],
        note="A request that failed for good is an invalid verdict. Cost: by the prices in the configuration.",
    )
    for row in group.usage:
        its = row.usage
        counts = (its.requests, its.failures, its.prompt_tokens, its.completion_tokens)
        table.add(
            row.judge,
            str(row.seed),
            *((str(count), float(count)) for count in counts),
            (f"{its.cost:.4f}", its.cost),
        )
    return table


def agreement_table(group: Group) -> Table:
    """Agreement between judges over all completions."""
    table = Table(
        "Agreement between judges, all adapters",
        ["Benchmark", "Judges", "Cohen's κ", "Agree %", "Verdicts", "Invalid in either"],
    )
    for row in group.agreement:
        found = row.found
        table.add(
            group.name_of(row.benchmark),
            " / ".join(row.judges),
            (number(found.kappa, 2), found.kappa),
            (percent(found.agreed), found.agreed),
            (str(found.n), float(found.n)),
            (str(found.invalid), float(found.invalid)),
        )
    return table


def _direction(row: CalibrationRow) -> str:
    """Which way the correction by this judge moves a rate."""
    if not row.sensitivity.value + row.specificity.value > 1:  # nor is NaN
        return f"`{row.judge}` is no better than chance on the labelled pairs, so nothing is corrected."
    unmoved = unmoved_rate(row.counts)
    if math.isnan(unmoved):
        return (
            f"`{row.judge}` made no error on the labelled pairs: no rate moves, and the intervals are wider."
        )
    return (
        f"By `{row.judge}` it moves rates above {percent(unmoved)} % up and those below it down: there missed unsafe "
        "replies and falsely accused safe ones are equally many. No interval is narrower than the observed one."
    )


def corrected_table(group: Group) -> Table:
    """Observed and corrected harm side by side."""
    table = Table(
        f"Harm corrected for the judge's errors ({group.name_of(group.first_harm)}, {group.prompts})",
        [
            "Method",
            "Observed %",
            "Corrected %",
            "Moved by, points",
            "Non-refusal rate %",
            "Refused, unsafe half of the over-refusal set %",
        ],
        note=(
            "Rogan-Gladen correction by the primary judge's sensitivity and specificity; the labelled pairs are another "
            "distribution than these completions, so this is a sensitivity analysis, not the headline. "
            + " ".join(dict.fromkeys(_direction(row) for row in group.calibration if row.primary))
        ),
    )
    for row in group.headline:
        observed, corrected = row.rates.get(group.first_harm), row.harm_corrected
        moved = corrected.value - observed.value if observed and corrected else math.nan
        table.add(
            row.name,
            rate_text(observed, counts=False),
            rate_text(corrected, counts=False),
            ("–" if math.isnan(moved) else f"{100 * moved:+.1f}", moved),
            rate_text(row.not_refused, counts=False),
            rate_text(row.unsafe_refusal, counts=False),
        )
    return table
