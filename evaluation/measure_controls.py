"""SafeMERGE against as many modules chosen otherwise, by the continuous measures, which see more than rates do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evaluation import statistics
from evaluation.choosing import Chosen
from evaluation.criterion import matched
from evaluation.means import Mean, mean_over_seeds
from evaluation.measures import MeasureColumn, columns, values_of
from evaluation.results import COMBINE_NAMES, Entry, Point


@dataclass(frozen=True)
class MeasureControlRow:
    """SafeMERGE minus a control, on the same prompts; the control's draws are averaged prompt by prompt."""

    column: MeasureColumn
    ours: str
    against: str
    draws: int
    found: Mean


def controls(entries: Sequence[Entry], chosen: Sequence[Chosen]) -> list[MeasureControlRow]:
    """A row per measure and control, the mean over the seeds; none where the seeds share too few prompts."""
    found = []
    for column in columns(entries[0]) if entries else ():
        for (name, combine), its in matched(entries, chosen).items():
            seeds = [gaps for entry, ours, draws in its if (gaps := _gaps(entry, ours, draws, column))]
            if not seeds:
                continue
            # An invalid verdict has no P(unsafe): only prompts that every seed has are compared.
            shared = set.intersection(*map(set, seeds))
            table = [[gaps[prompt] for prompt in gaps if prompt in shared] for gaps in seeds]
            if len(shared) < 2:
                continue
            first = its[0][1]
            ours_name = f"{first.spec.display.name or first.method} ({COMBINE_NAMES.get(combine or '', combine or '')})"
            draws = max(len(draws) for _, _, draws in its)
            found.append(MeasureControlRow(column, ours_name, name, draws, mean_over_seeds(table)))
    return found


def _gaps(entry: Entry, ours: Point, draws: Sequence[Point], column: MeasureColumn) -> dict[str, float]:
    """By prompt, in the order of the items: ours minus the mean of the draws, where all have a value."""
    mine, *theirs = (
        values_of(entry, point, column.benchmark, column.measure, "test") for point in (ours, *draws)
    )
    return {
        prompt: value - statistics.mean([its[prompt] for its in theirs])
        for prompt, value in mine.items()
        if all(prompt in its for its in theirs)
    }
