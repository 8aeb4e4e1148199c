"""The report's tables on the criterion: against its controls, and against its null."""

from __future__ import annotations

from evaluation.analysis import Group
from evaluation.measure_tables import column_text, mean_text
from evaluation.sections import points_text
from evaluation.tables import Table, list_text, number, percent


def controls_table(group: Group) -> Table:
    """SafeMERGE minus the controls that blend as many modules, chosen otherwise."""
    table = Table(
        f"SafeMERGE minus as many modules chosen otherwise, same prompts, {group.prompts}",
        [
            "Benchmark",
            "SafeMERGE",
            "Minus",
            "Difference, points [95 %]",
            "Each seed",
            "n",
            "Modules",
            "Shared %",
        ],
        note=(
            "Does the choice by ρ do the work? Mean over seeds; the interval covers seeds and prompts, with one seed its "
            "prompts (Bonett-Price). Draws of a random control are averaged prompt by prompt, and the interval does not "
            "cover them. Modules: SafeMERGE's and the control's. Shared: of SafeMERGE's modules, those that the control "
            "blends too. Negative is better for harm and over-refusal, positive for utility."
        ),
    )
    for row in group.controls:
        draws = f", {row.draws} draws" if row.draws > 1 else ""
        interval = f"[{points_text(row.low)}, {points_text(row.high)}]"
        table.add(
            group.name_of(row.benchmark),
            row.ours,
            row.against + draws,
            (f"{points_text(row.difference)} {interval}", row.difference),
            "; ".join(points_text(value) for value in row.values) if len(row.values) > 1 else "–",
            (str(row.n), float(row.n)),
            f"{list_text(sorted(set(row.merged)))} / {list_text(sorted(set(row.of_control)))}",
            (percent(row.shared, 0), row.shared),
        )
        if row.low > 0 or row.high < 0:
            table.marked.add(len(table.rows) - 1)
    return table


def measure_controls_table(group: Group) -> Table:
    """The same by the continuous measures."""
    table = Table(
        f"SafeMERGE minus as many modules chosen otherwise, continuous measures, same prompts, {group.prompts}",
        ["Measure", "SafeMERGE", "Minus", "Difference [95 %] (each seed)", "n"],
        note=(
            "Mean over seeds; the interval covers seeds and prompts, with one seed its prompts (Student's t). Draws of a "
            "random control are averaged prompt by prompt. The arrow says which way is better."
        ),
    )
    for row in group.measure_controls:
        table.add(
            column_text(group, row.column),
            row.ours,
            row.against + (f", {row.draws} draws" if row.draws > 1 else ""),
            mean_text(row.found),
            (str(row.found.n), float(row.found.n)),
        )
        if row.found.low > 0 or row.found.high < 0:
            table.marked.add(len(table.rows) - 1)
    return table


def control_tables(group: Group) -> list[Table]:
    """Both."""
    return [controls_table(group), measure_controls_table(group)]


def nulls_table(group: Group) -> Table:
    """How much of rho its null explains, and of the selection."""
    table = Table(
        "How much of ρ, and of what it selects, is the null of ρ",
        [
            "Seed",
            "Modules",
            "Rank correlation",
            "Variance of log ρ explained %",
            "Merged by SafeMERGE",
            "of them also by the null",
            "by chance",
        ],
        note=(
            "Null: what ρ is on average for an update of the same shape that knows nothing of V = aligned − base; it "
            "depends on V's spectrum and the module's shape alone. By the null: as many modules, those of lowest null, "
            "chosen without looking at the fine-tuning. Modules without a defined ρ are left out."
        ),
    )
    for row in group.nulls:
        table.add(
            str(row.seed),
            (str(row.modules), float(row.modules)),
            (f"{row.spearman:.2f}", row.spearman),
            (percent(row.explained, 0), row.explained),
            (str(row.merged), float(row.merged)),
            (str(row.shared), float(row.shared)),
            (f"{row.chance:.1f}", row.chance),
        )
    return table


def kinds_table(group: Group) -> Table:
    """rho against its null, by kind of module."""
    table = Table(
        "ρ against its null, by kind of module",
        ["Kind", "Modules", "ρ", "Null", "ρ/null", "Merged by SafeMERGE %"],
        note="Medians over the modules" + (" of all seeds." if len(group.seeds) > 1 else "."),
    )
    for row in group.kinds:
        table.add(
            row.kind,
            (str(row.modules), float(row.modules)),
            *((number(value), value) for value in (row.rho, row.null, row.ratio)),
            (percent(row.merged, 0), row.merged),
        )
    return table
