"""Continuous measures of the points, beside their rates: bits per token of the reference answers, P(unsafe), refusal odds.

On small models exact match and verdicts are nearly blind; these see the same prompts with more power.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from evaluation import statistics
from evaluation.choosing import Chosen, by_name, first_of
from evaluation.means import Mean, MeanDifference, compare_means, mean_over_seeds
from evaluation.results import Entry, Point, of_split, primary
from evaluation.run_file import MEASURED, Measured

Measure = Measured | Literal["p_unsafe"]
#: What tables call them, and where a better model has more of it or less. A benign prompt should not be refused.
NAMES: dict[Measure, str] = {
    "reference_bits": "bits per token of the answer",
    "refusal_log_odds": "log-odds of a refusal",
    "p_unsafe": "mean P(unsafe)",
}


@dataclass(frozen=True)
class MeasureColumn:
    """A measure on a benchmark; `more_is_better` says which way is good."""

    benchmark: str
    measure: Measure
    more_is_better: bool


@dataclass(frozen=True)
class MeasureRow:
    """A method's means, in the order of the columns; None where it has none."""

    name: str
    method: str
    means: list[Mean | None]


@dataclass(frozen=True)
class MeasureTest:
    """The selected SafeMERGE minus another method, on the same prompts of one seed; p_holm over the methods."""

    seed: int
    column: MeasureColumn
    against: str
    found: MeanDifference
    p_holm: float


def columns(entry: Entry) -> list[MeasureColumn]:
    """The measures that some point of the entry has, utility first."""
    found = []
    for role in ("utility", "harm", "over_refusal"):
        for benchmark in entry.benchmarks(role):
            if role == "harm" and any(
                values_of(entry, p, benchmark, "p_unsafe", "all") for p in entry.points
            ):
                found.append(MeasureColumn(benchmark, "p_unsafe", more_is_better=False))
            if any(point.measures.get(benchmark) for point in entry.points):
                found.append(MeasureColumn(benchmark, MEASURED[role], more_is_better=role == "harm"))
    return found


def values_of(entry: Entry, point: Point, benchmark: str, measure: Measure, split: str) -> dict[str, float]:
    """By prompt, in the order of the items; of over-refusal only the benign prompts."""
    if measure == "p_unsafe":
        scored = of_split(primary(entry, point, benchmark), split)
        # An invalid verdict is neither safe nor unsafe; its probability must not count as either.
        return {row.id: row.p_unsafe for row in scored if row.p_unsafe is not None and not row.invalid}
    known = point.measures.get(benchmark, {})
    benign = entry.roles[benchmark] == "over_refusal"
    return {
        item.id: known[item.id]
        for item in entry.items[benchmark]
        if item.id in known and split in ("all", item.half) and not (benign and item.label == "harmful")
    }


def rows(entries: list[Entry], chosen: list[Chosen], split: str) -> list[MeasureRow]:
    """A row per method, over the seeds."""
    wanted = columns(entries[0])
    found = []
    for name, pairs in by_name(entries, chosen).items():
        means = []
        for its in wanted:
            seeds = [list(values_of(e, p, its.benchmark, its.measure, split).values()) for e, p in pairs]
            mean = mean_over_seeds(seeds) if all(seeds) else None
            if mean and its.measure == "p_unsafe":
                mean = replace(mean, low=max(0.0, mean.low), high=min(1.0, mean.high))
            means.append(mean)
        found.append(MeasureRow(name, pairs[0][1].method, means))
    return found if wanted else []


def tests(entry: Entry, chosen: Chosen) -> list[MeasureTest]:
    """The selected SafeMERGE minus every other method, per measure, on the test half; Holm over the methods."""
    ours = first_of(chosen, "safemerge")
    if ours is None:
        return []
    found: list[MeasureTest] = []
    family = [(name, point) for name, point in chosen.items() if point is not ours]
    for column in columns(entry):
        compared = list(_compared(entry, ours, family, column))
        adjusted = statistics.holm([its.p for _, its in compared])
        found += [
            MeasureTest(entry.spec.seed, column, name, its, p)
            for (name, its), p in zip(compared, adjusted, strict=True)
        ]
    return found


def _compared(
    entry: Entry, ours: Point, family: list[tuple[str, Point]], column: MeasureColumn
) -> Iterator[tuple[str, MeanDifference]]:
    mine = values_of(entry, ours, column.benchmark, column.measure, "test")
    for name, point in family:
        theirs = values_of(entry, point, column.benchmark, column.measure, "test")
        both = [key for key in mine if key in theirs]
        if len(both) > 1:
            yield name, compare_means([mine[key] for key in both], [theirs[key] for key in both])
