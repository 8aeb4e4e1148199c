"""One point per method, chosen on a half of the prompts; the rule itself is in `evaluation.selection`."""

from __future__ import annotations

import math
from typing import Any

from evaluation import selection, statistics
from evaluation.results import Entry, Point, of_role

ORDER = (
    "aligned",
    "finetuned",
    "safeinstruct",
    "resta",
    "scale",
    "safelora",
    "full",
    "safemerge",
    "random",
    "highest",
)
CONTROLS = ("random", "highest")
Chosen = dict[str, Point]
MISSING = math.nan


def name_of(point: Point, entry: Entry) -> str:
    """The method with its way of combining, and the random draw where a run holds several: each is a row of its own."""
    alike = [p for p in entry.points if p.method == point.method]
    parts = [str(point.spec["combine"])] if point.spec.get("combine") else []
    if len({p.spec.get("draw") for p in alike}) > 1:
        parts.append(f"draw {point.spec.get('draw')}")
    return f"{point.method} ({', '.join(parts)})" if parts else point.method


def rate_of(entry: Entry, point: Point | None, benchmark: str | None, split: str) -> statistics.Rate:
    """The headline rate of a point on a benchmark; NaN with n = 0 when it has none."""
    if point is None or benchmark is None or not point.answered(benchmark, split):
        return statistics.rate([])
    return statistics.rate(of_role(entry, point, benchmark, split))


def choose_points(
    entry: Entry, split: str, keep: float = selection.KEEP, slack: float = selection.SLACK
) -> tuple[Chosen, list[dict[str, Any]]]:
    """One point per method, chosen on `split`.

    Controls are matched to safemerge's number of modules and alpha.
    """
    families: dict[str, list[Point]] = {}
    for point in entry.points:
        families.setdefault(name_of(point, entry), []).append(point)
    harm, utility = (next(iter(entry.benchmarks(role)), None) for role in ("harm", "utility"))
    reference = {p.method: rate_of(entry, p, utility, split).value for p in reversed(entry.points)}
    aligned, finetuned = reference.get("aligned", MISSING), reference.get("finetuned", MISSING)
    chosen: Chosen = {}
    choices = []
    for name, points in sorted(families.items(), key=lambda item: item[1][0].method in CONTROLS):
        method = points[0].method
        if method in CONTROLS and "safemerge" in {p.method for p in chosen.values()}:
            target = next(p for p in chosen.values() if p.method == "safemerge")
            chosen[name] = min(points, key=lambda p: _distance(p, target))
            continue
        candidates = [
            selection.Candidate(
                i,
                rate_of(entry, point, harm, split).value,
                rate_of(entry, point, utility, split).value,
                point.spec.get("merged_modules") or 0,
            )
            for i, point in enumerate(points)
        ]
        choice = selection.choose(candidates, aligned, finetuned, keep=keep, slack=slack)
        chosen[name] = points[choice.index]
        if len(points) > 1:
            choices.append(
                {
                    "seed": entry.spec["seed"],
                    "method": name,
                    "label": chosen[name].label,
                    "of": len(points),
                    "floor": choice.floor,
                    "met": choice.met,
                    "harm": candidates[choice.index].harm,
                    "utility": candidates[choice.index].utility,
                }
            )
    return dict(sorted(chosen.items(), key=lambda item: _rank(item[1].method))), choices


def _rank(method: str) -> int:
    return ORDER.index(method) if method in ORDER else len(ORDER)


def _distance(point: Point, target: Point) -> tuple[float, float]:
    def gap(key: str) -> float:
        return abs((point.spec.get(key) or 0) - (target.spec.get(key) or 0))

    return gap("merged_modules"), gap("alpha")
