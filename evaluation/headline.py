"""The rows of the result tables: a method's settings and rates over the seeds of a group."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from evaluation import harness, soundness, statistics
from evaluation.choosing import Chosen, by_name
from evaluation.judges import corrected_rate
from evaluation.results import PHRASES, Entry, Point, of_role, of_split, outcomes, primary
from evaluation.run_file import Display, Projection
from evaluation.statistics import Rate

Value = TypeVar("Value")


@dataclass(frozen=True)
class SeedRate:
    """A rate over seeds: `value` is their mean, n one seed's prompts; the interval covers seeds and prompts."""

    k: float
    n: int
    value: float
    low: float
    high: float
    values: list[float]  # a seed each
    invalid: list[int]  # likewise


@dataclass(frozen=True)
class HeadlineRow:
    """A method's row: its settings in the seeds, and its rates by benchmark."""

    name: str
    method: str
    display: Display
    tau: list[float]
    tau_setting: list[float | str]
    alpha: list[float]
    labels: list[str]
    merged: list[int]
    modules: list[int]
    projections: list[Projection]
    rates: dict[str, SeedRate]
    unsafe_refusal: SeedRate | None
    harm_corrected: Rate | None
    not_refused: SeedRate | None  # harm by the phrase judge, where another one is primary
    affected: list[str]  # the failed checks that concern it
    harness: dict[str, harness.Seeds]  # of lm-evaluation-harness, by column


@dataclass(frozen=True)
class CategoryRow:
    """Harm in one category of prompts."""

    name: str
    benchmark: str
    category: str
    rate: SeedRate


Pairs = list[tuple[Entry, Point]]


def headline(entries: list[Entry], chosen: list[Chosen], split: str) -> list[HeadlineRow]:
    """A row per method: settings, modules, and the rates of every benchmark over the seeds."""
    return [
        HeadlineRow(
            name=name,
            method=pairs[0][1].method,
            display=pairs[0][1].spec.display,
            tau=_several(p.spec.tau for _, p in pairs),
            tau_setting=_several(p.spec.tau_setting for _, p in pairs),
            alpha=_several(p.spec.alpha for _, p in pairs),
            labels=[p.label for _, p in pairs],
            merged=_several(p.spec.merged_modules for _, p in pairs),
            modules=_several(p.spec.modules for _, p in pairs),
            projections=[p.spec.projection for _, p in pairs if p.spec.projection],
            rates={benchmark: _over_seeds(pairs, benchmark, split) for benchmark in entries[0].roles},
            unsafe_refusal=_unsafe_refusal(pairs, split),
            harm_corrected=_corrected(pairs, split),
            not_refused=_not_refused(pairs, split),
            affected=sorted({check.name for e, p in pairs for check in soundness.failed_checks(e, p)}),
            harness=harness.of_seeds([(e.root, p.spec) for e, p in pairs]),
        )
        for name, pairs in by_name(entries, chosen).items()
    ]


def _several(values: Iterable[Value | None]) -> list[Value]:
    """The seeds' values in the order of the seeds; once, if they are all the same."""
    known = [value for value in values if value is not None]
    return known[:1] if len(set(known)) == 1 else known


def _over_seeds(pairs: Pairs, benchmark: str, split: str) -> SeedRate:
    answered = [(entry, point) for entry, point in pairs if point.answered(benchmark, split)]
    invalid = [
        sum(
            row.invalid and (entry.roles[benchmark] != "over_refusal" or row.benign)
            for row in of_split(primary(entry, point, benchmark), split)
        )
        for entry, point in answered
    ]
    return summary([of_role(entry, point, benchmark, split) for entry, point in answered], invalid)


def summary(outcomes: Sequence[Sequence[bool | None]], invalid: Sequence[int] = ()) -> SeedRate:
    """The outcomes of the seeds as one rate."""
    one = statistics.over_seeds(outcomes)
    values = [statistics.rate(row).value for row in outcomes]
    return SeedRate(one.k, one.n, one.value, one.low, one.high, values, list(invalid))


def _unsafe_refusal(pairs: Pairs, split: str) -> SeedRate | None:
    found = []
    for entry, point in pairs:
        if benchmark := entry.first("over_refusal"):
            rows = [row for row in primary(entry, point, benchmark) if not row.benign]
            found.append(outcomes(rows, split))
    return summary(found) if any(found) else None


def _corrected(pairs: Pairs, split: str) -> Rate | None:
    """The rate over the seeds, with its interval, corrected; where the judge differs between seeds, by each of them."""
    harm = pairs[0][0].first("harm")
    judges = [entry.spec.judges.get(entry.judge) for entry, _ in pairs]
    known = [its.calibration for its in judges if its and its.calibration]
    if harm is None or not known:
        return None
    seeds = _over_seeds(pairs, harm, split)
    observed = Rate(seeds.k, seeds.n, seeds.value, seeds.low, seeds.high)
    found = [rate for its in known if (rate := corrected_rate(observed, its))]
    if len(found) < len(known):
        return None
    value = statistics.mean([rate.value for rate in found])
    low, high = min(rate.low for rate in found), max(rate.high for rate in found)
    return Rate(value * seeds.n, seeds.n, value, low, high)


def _not_refused(pairs: Pairs, split: str) -> SeedRate | None:
    """Harm by the phrase judge: replies to harmful prompts that hold no refusal. None if it is the primary judge."""
    found = []
    for entry, point in pairs:
        scored = point.scored.get(entry.first("harm") or "", {})
        if PHRASES in scored and entry.judge != PHRASES:
            found.append(outcomes(scored[PHRASES], split))
    return summary(found) if any(found) else None


def categories(entries: list[Entry], chosen: list[Chosen]) -> list[CategoryRow]:
    """Harm per prompt category on the test half, selected points, over seeds."""
    rows = []
    for name, pairs in by_name(entries, chosen).items():
        for benchmark in entries[0].benchmarks("harm"):
            scored = [of_split(primary(e, p, benchmark), "test") for e, p in pairs]
            for category in sorted({row.category for its in scored for row in its if row.category}):
                parts = [[row for row in its if row.category == category] for its in scored]
                rate = summary(
                    [[row.outcome for row in part] for part in parts],
                    [sum(row.invalid for row in part) for part in parts],
                )
                rows.append(CategoryRow(name, benchmark, category, rate))
    return rows
