"""One point per method, selected on a half of the prompts; the rule itself is in `evaluation.selection`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from evaluation import selection, statistics
from evaluation.results import Entry, Point, of_role

Chosen = dict[str, Point]  # by the name of their row
ENDS = (
    "aligned",
    "finetuned",
)  # what fine-tuning gained and lost lies between them; nothing about them can be set


@dataclass(frozen=True)
class ChoiceRow:
    """What was selected among the `of` points of a method; rates in [0, 1] on the half that it was selected on."""

    seed: int
    method: str
    label: str
    of: int
    floor: float  # the least utility allowed
    met: bool
    harm: float
    utility: float


def rate_of(entry: Entry, point: Point | None, benchmark: str | None, split: str) -> statistics.Rate:
    """The headline rate of a point on a benchmark; NaN with n = 0 when it has none."""
    if point is None or benchmark is None or not point.answered(benchmark, split):
        return statistics.rate([])
    return statistics.rate(of_role(entry, point, benchmark, split))


def first_of(points: Chosen, method: str) -> Point | None:
    """The first point of a method, if there is one."""
    return next((point for point in points.values() if point.method == method), None)


def by_name(entries: list[Entry], chosen: list[Chosen]) -> dict[str, list[tuple[Entry, Point]]]:
    """Each row's point in every seed that has one."""
    names = dict.fromkeys(name for points in chosen for name in points)
    return {
        name: [(e, points[name]) for e, points in zip(entries, chosen, strict=True) if name in points]
        for name in names
    }


def choose_points(
    entry: Entry, split: str, keep: float, slack: float = selection.SLACK
) -> tuple[Chosen, list[ChoiceRow]]:
    """One point per method, selected on `split`. Controls are matched to SafeMERGE's number of modules and alpha."""
    families: dict[str, list[Point]] = {}
    for point in entry.points:
        families.setdefault(entry.row_name(point), []).append(point)
    harm, utility = entry.first("harm"), entry.first("utility")
    reference = {p.method: rate_of(entry, p, utility, split).value for p in reversed(entry.points)}
    aligned, finetuned = (reference.get(method, math.nan) for method in ENDS)
    chosen: Chosen = {}
    choices = []
    for name, points in sorted(families.items(), key=lambda family: family[1][0].spec.display.control):
        target = first_of(chosen, "safemerge")
        if points[0].spec.display.control and target is not None:
            chosen[name] = min(points, key=lambda p, t=target: _distance(p, t))  # type: ignore[misc]
            continue
        candidates = [
            selection.Candidate(
                i,
                rate_of(entry, point, harm, split).value,
                rate_of(entry, point, utility, split).value,
                point.spec.merged_modules,
            )
            for i, point in enumerate(points)
        ]
        choice = selection.choose(candidates, aligned, finetuned, keep=keep, slack=slack)
        chosen[name], found = points[choice.index], candidates[choice.index]
        if len(points) > 1:
            choices.append(
                ChoiceRow(
                    entry.spec.seed,
                    name,
                    chosen[name].label,
                    len(points),
                    choice.floor,
                    choice.met,
                    found.harm,
                    found.utility,
                )
            )
    return dict(sorted(chosen.items(), key=lambda item: item[1].spec.display.order)), choices


def _distance(point: Point, target: Point) -> tuple[float, float]:
    ours, theirs = point.spec, target.spec
    return abs(ours.merged_modules - theirs.merged_modules), abs((ours.alpha or 0) - (theirs.alpha or 0))
