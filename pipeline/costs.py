"""What the stages of a run cost, in a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class StageCost:
    """One stage of this run. What was found in the store costs nothing, so the numbers are of what was made."""

    title: str
    made: int  # artifacts
    found: int
    wall_s: float  # from the request to the end, with loading
    cpu_s: float  # user and system time of the worker and its children
    tokens: int | None  # None: the stage counts none
    peak_memory_bytes: int  # resident, of the worker


def total(costs: Sequence[StageCost]) -> StageCost:
    """All of them together: sums, and the largest peak."""
    counted = [c.tokens for c in costs if c.tokens is not None]
    return StageCost(
        "total",
        sum(c.made for c in costs),
        sum(c.found for c in costs),
        sum(c.wall_s for c in costs),
        sum(c.cpu_s for c in costs),
        sum(counted) if counted else None,
        max((c.peak_memory_bytes for c in costs), default=0),
    )


def show(costs: Sequence[StageCost], console: Console) -> None:
    """Print the stages in which something was made, with a total; nothing if there is none."""
    made = [c for c in costs if c.made]
    if not made:
        return
    table = Table(box=SIMPLE, show_footer=False, pad_edge=False)
    table.add_column("stage")
    for name in ("made", "found", "wall s", "CPU s", "tokens", "tokens/s", "GiB"):
        table.add_column(name, justify="right", no_wrap=True)
    for cost in made:
        table.add_row(*_cells(cost), end_section=cost is made[-1])
    # A rate over stages that generate and stages that train would mean nothing.
    table.add_row(*_cells(total(made), rate=False))
    console.print(table)


def _cells(cost: StageCost, rate: bool = True) -> list[str]:
    speed = cost.tokens / cost.wall_s if rate and cost.tokens and cost.wall_s else None
    return [
        cost.title,
        str(cost.made),
        str(cost.found),
        f"{cost.wall_s:.1f}",
        f"{cost.cpu_s:.1f}",
        "–" if cost.tokens is None else f"{cost.tokens:,}",
        "–" if speed is None else f"{speed:,.0f}",
        f"{cost.peak_memory_bytes / 2**30:.2f}",
    ]
