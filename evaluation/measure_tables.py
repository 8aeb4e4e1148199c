"""The tables of the continuous measures."""

from __future__ import annotations

import math

from evaluation.analysis import Group
from evaluation.means import Mean
from evaluation.measures import NAMES, MeasureColumn
from evaluation.sections import ours_of, paired_cells
from evaluation.tables import Table


def column_text(group: Group, column: MeasureColumn) -> str:
    """What a column is called, with the way that is good."""
    return (
        f"{group.name_of(column.benchmark)}: {NAMES[column.measure]} {'↑' if column.more_is_better else '↓'}"
    )


def mean_text(found: Mean | None) -> tuple[str, float]:
    """`1.23 [1.10, 1.36]`, over seeds with each seed's mean; and the value to sort by."""
    if found is None or math.isnan(found.value):
        return "–", math.nan
    text = f"{found.value:.2f}"
    if not math.isnan(found.low):
        text += f" [{found.low:.2f}, {found.high:.2f}]"
    if len(found.values) > 1:
        same = len(set(found.values)) == 1
        text += f" ({'every seed' if same else '; '.join(f'{value:.2f}' for value in found.values)})"
    return text, found.value


def _n(group: Group, column: int) -> int:
    """Prompts of one seed."""
    return max((its.n for row in group.measures if (its := row.means[column])), default=0)


def measures_table(group: Group) -> Table:
    """A row per method, a column per measure."""
    table = Table(
        f"Continuous measures, {group.prompts}",
        [
            "Method",
            *(
                f"{column_text(group, its)}, n = {_n(group, i)}"
                for i, its in enumerate(group.measure_columns)
            ),
        ],
        note=(
            "Mean over the prompts [95 % interval]; over several seeds, the interval covers seeds and prompts. Bits per "
            "token: of the reference answer after the prompt, its end included; fewer, the likelier the model finds it. "
            "P(unsafe): the primary judge's, whatever its threshold. Log-odds of a refusal: that the reply begins with one "
            "of the openings in `evaluation.likelihood`, in nats; 0 is even odds. Of benign prompts less is better."
        ),
    )
    for index, row in enumerate(group.measures):
        table.add(row.name, *(mean_text(found) for found in row.means))
        if row.method == "safemerge":
            table.marked.add(index)
    return table


def measure_tests_table(group: Group) -> Table:
    """Paired tests of the selected SafeMERGE point on the continuous measures."""
    table = Table(
        f"{ours_of(group)} minus each method, continuous measures, same prompts, {group.prompts}",
        ["Measure", "Against", "Seed", "Difference [95 %]", "n", "p", "p (Holm)"],
        note=(
            "Paired t test; percentile bootstrap over the prompts; Holm over the methods of one measure and seed. "
            "Better is the way of the arrow."
        ),
    )
    for row in group.measure_tests:
        found = row.found
        table.add(
            column_text(group, row.column),
            row.against,
            (str(row.seed), float(row.seed)),
            (f"{found.difference:+.2f} [{found.low:+.2f}, {found.high:+.2f}]", found.difference),
            *paired_cells(found.n, found.p, row.p_holm),
        )
        if row.p_holm < 0.05:
            table.marked.add(len(table.rows) - 1)
    return table
