"""The literature's numbers beside ours."""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.analysis import Group
from evaluation.headline import SeedRate
from evaluation.published import CELLS, Cell
from evaluation.tables import Table, rate_text

#: Names as they are published.
METHODS = {
    "aligned": "Aligned",
    "finetuned": "Fine-tuned",
    "safeinstruct": "SafeInstruct",
    "resta": "RESTA",
    "safelora": "SafeLoRA",
    "safemerge": "SafeMERGE",
}
METRICS = {"directharm": "DirectHarm", "hexphi": "HEx-PHI"}


def ours_of(cell: Cell, groups: Sequence[Group]) -> SeedRate | None:
    """Our number beside a published one: the paper's protocol, all prompts, on the original data; None where not run."""
    for group in groups:
        if (group.model, group.task) == (cell.model, cell.task) and group.data != "bundled":
            benchmark = str(group.utility) if cell.metric == "utility" else cell.metric
            for row in group.paper:
                rate = row.rates.get(benchmark)
                if row.method == cell.method and rate and rate.n:
                    return rate
    return None


def literature_table(groups: Sequence[Group]) -> Table:
    """The published numbers with ours beside them."""
    table = Table(
        "Ours against the paper, %",
        ["Model", "Task", "Method", "Metric", "Paper", "Source", "Ours (all prompts)"],
        note=(
            "summary: an unpublished summary of the paper that this repository was written from; digest: published digests "
            "of it by others, several agreeing; code: the authors' repository. None was read from the paper itself. Ours "
            "beside RESTA is RESTA-style, with a safety LoRA as the vector; what C does to SafeLoRA's updates stands under "
            "the main table."
        ),
    )
    for cell in CELLS:
        ours = ours_of(cell, groups)
        table.add(
            cell.model,
            cell.task,
            METHODS.get(cell.method, cell.method),
            METRICS.get(cell.metric, cell.metric),
            (f"{cell.value:.2f}", cell.value),
            cell.source,
            rate_text(ours) if ours else "not run here",
        )
    return table
