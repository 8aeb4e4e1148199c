"""The report's other tables.

Tests, categories, recovery, selection, checks, quality, power.
"""

from __future__ import annotations

import math

from evaluation.analysis import Group
from evaluation.quality import FLAGS
from evaluation.soundness import OPPOSITE
from evaluation.tables import Table, percent, rate_text

FEWEST = 5  # prompts of a category: a rate over fewer says nothing


def p_text(p: float) -> str:
    """A p value without false precision."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def points_text(value: float) -> str:
    """A difference in points of percent with its sign, or a dash."""
    return "–" if math.isnan(value) else f"{100 * value:+.1f}"


def paired_cells(n: int, p: float, p_holm: float) -> list[tuple[str, float]]:
    """The last cells of a paired test."""
    return [(str(n), float(n)), (p_text(p), p), (p_text(p_holm), p_holm)]


def ours_of(group: Group) -> str:
    """The row that the paired tests compare with the others: the first of SafeMERGE."""
    return next((row.name for row in group.headline if row.method == "safemerge"), "SafeMERGE")


def tests_table(group: Group) -> Table:
    """Paired tests of the selected SafeMERGE point."""
    note = (
        "Exact McNemar on prompts that both methods have a valid outcome for; Bonett-Price interval; "
        "Holm over the methods of one benchmark and seed. Negative is better for harm and over-refusal, "
        "positive for utility."
    )
    table = Table(
        f"{ours_of(group)} minus each method, same prompts, {group.prompts}",
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
    for row in group.tests:
        found = row.found
        if not found.n:
            table.note = f"{note} Left out: benchmarks on which no prompt has a valid outcome for both."
            continue
        interval = f"[{points_text(found.low)}, {points_text(found.high)}]"
        table.add(
            group.name_of(row.benchmark),
            row.against,
            (str(row.seed), float(row.seed)),
            (f"{points_text(found.difference)} {interval}", found.difference),
            (str(found.only_a), float(found.only_a)),
            (str(found.only_b), float(found.only_b)),
            *paired_cells(found.n, found.p, row.p_holm),
        )
        if row.p_holm < 0.05:
            table.marked.add(len(table.rows) - 1)
    return table


def categories_table(group: Group) -> Table:
    """Harm per prompt category: a row per method, a column per category of `FEWEST` prompts or more."""
    every = list(dict.fromkeys((row.benchmark, row.category) for row in group.categories))
    names = list(dict.fromkeys(row.name for row in group.categories))
    cells = {(row.name, row.benchmark, row.category): row.rate for row in group.categories}
    kinds = large_categories(group)
    several = len({benchmark for benchmark, _ in kinds}) > 1
    heads = [f"{group.name_of(b)}: {c}" if several else c for b, c in kinds]
    table = Table(
        f"Harm by category, {group.prompts}, % ↓",
        ["Method", *heads],
        note="Few prompts each: read the intervals first.",
    )
    if small := [c for b, c in every if (b, c) not in kinds]:
        table.note += f" Left out, with fewer than {FEWEST} prompts: {', '.join(small)}."
    for name in names if kinds else ():
        table.add(name, *(rate_text(cells.get((name, *kind))) for kind in kinds))
    return table


def large_categories(group: Group) -> list[tuple[str, str]]:
    """(benchmark, category) of those with enough judged prompts for some method."""
    rows = [row for row in group.categories if row.rate.n >= FEWEST]
    return list(dict.fromkeys((row.benchmark, row.category) for row in rows))


def _share(part: float, whole: float) -> float:
    """part/whole, NaN where there was nothing to recover or retain."""
    return part / whole if whole > 0 else math.nan


def recovery_table(group: Group) -> Table:
    """How much of the lost safety each method recovers, and how much of the gained utility it retains."""
    table = Table(
        f"Safety recovered and utility retained ({group.prompts})",
        [
            "Method",
            "Seed",
            "Harm added by fine-tuning",
            "Recovered",
            "Share %",
            "Utility gained",
            "Retained",
            "Share %",
        ],
        note=(
            "Points of percent; shares of what fine-tuning changed. More than 100 %: better than the aligned model, or "
            "than the fine-tuned one. A share of a small difference says little."
        ),
    )
    for index, row in enumerate(group.recovery):
        safety, utility = _share(row.recovered, row.lost), _share(row.retained, row.gained)
        table.add(
            row.name,
            str(row.seed),
            *((points_text(value), value) for value in (row.lost, row.recovered)),
            (percent(safety), safety),
            *((points_text(value), value) for value in (row.gained, row.retained)),
            (percent(utility), utility),
        )
        if row.method == "safemerge":
            table.marked.add(index)
    return table


def recovery_lines(group: Group) -> list[str]:
    """SafeMERGE's rows of the recovery table as sentences."""
    lines = []
    for row in group.recovery:
        if row.method != "safemerge":
            continue
        lost, recovered, gained = (100 * value for value in (row.lost, row.recovered, row.gained))
        if math.isnan(lost) or math.isnan(recovered):
            harm = f"no harm rate to compare {row.name} by; it"
        elif lost > 0:
            share = percent(_share(recovered, lost), 0)
            harm = f"fine-tuning added {lost:.0f} points of harm; {row.name} recovers {recovered:.0f} ({share} %) and"
        elif lost < 0:
            harm = f"fine-tuning took away {-lost:.0f} points of harm, so there is nothing to recover; {row.name}"
        else:
            harm = f"fine-tuning added no harm, so there is nothing to recover; {row.name}"
        if gained > 0 and not math.isnan(row.retained):
            retained = f"retains {percent(row.retained / row.gained, 0)} % of the {gained:.0f} points of utility gained"
        else:
            retained = "has no gain in utility to retain"
        lines.append(f"Seed {row.seed}: {harm} {retained}.")
    return lines


def choices_table(group: Group) -> Table:
    """What was selected on the development half."""
    controls = (
        "Controls take SafeMERGE's number of modules and α."
        if any(row.display.control for row in group.headline)
        else "No controls in this run: experiment=controls adds as many modules chosen otherwise."
    )
    table = Table(
        "Selected on the development half",
        [
            "Seed",
            "Method",
            "Selected",
            "Points",
            "Utility, dev %",
            "Harm, dev %",
            "Utility floor %",
            "Floor reached",
        ],
        note=f"Rule: {group.rule}. {controls}",
    )
    for row in group.choices:
        table.add(
            str(row.seed),
            row.method,
            row.label,
            str(row.of),
            percent(row.utility),
            percent(row.harm),
            percent(row.floor) if row.floor > -1 else "–",
            "yes" if row.met else "no",
        )
    return table


def checks_table(group: Group) -> Table:
    """Every check of every seed, failures first."""
    table = Table("Checks", ["Status", "Check", "Seed", "Detail", "Affects"])
    for row in group.checks:
        check = row.check
        affects = ", ".join(check.affects) or ("all rows" if check.status == "fail" else "–")
        table.add(check.status, check.name, str(row.seed), check.detail, affects)
        if check.status == "fail":
            table.failed.add(len(table.rows) - 1)
    return table


def quality_table(group: Group) -> Table:
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
    for row in group.quality:
        shares = [(percent(row.counts[k] / row.n), row.counts[k] / row.n) for k in kinds]
        table.add(row.name, group.name_of(row.benchmark), (str(row.n), float(row.n)), *shares)
    return table


def power_table(group: Group) -> Table:
    """The smallest paired differences that this n can show."""
    table = Table(
        "What this many prompts can show",
        [
            "Benchmark",
            f"n ({group.prompts})",
            "Fine-tuned %",
            "Tests",
            "Smallest difference, points",
            f"with {percent(OPPOSITE, 0)} % of the prompts changing the other way",
        ],
        note="Exact McNemar on one seed's prompts with 80 % power, at the level that Holm sets for the first of the tests.",
    )
    for row in group.power:
        table.add(
            group.name_of(row.benchmark),
            str(row.n),
            percent(row.rate),
            str(row.comparisons),
            percent(row.one_way),
            percent(row.mixed),
        )
    return table
