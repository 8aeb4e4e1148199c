"""What the report says: the selected points, the headline on the test half, the paper's protocol, the paired tests.

Runs that share all settings but the seed form a group; its entries are seeds. Everything is selected within a
seed; a group's row is the mean over seeds, with each seed's value and an interval that covers seeds and prompts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter

from evaluation import measures as continuous
from evaluation import selection, soundness, statistics
from evaluation.choosing import ChoiceRow, Chosen, choose_points
from evaluation.comparisons import ComparisonRow, Recovery, recovery, tests
from evaluation.judges import corrected_rate
from evaluation.results import PHRASES, Entry, Point, of_role, of_split, outcomes, primary
from evaluation.run_file import Display, Projection
from evaluation.statistics import Rate
from safemerge.errors import UserError

Value = TypeVar("Value")
#: Where data comes from, as tables say it.
DATA = {"bundled": "bundled stand-in data", "local": "local copies", "hub": "hub data"}


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


@dataclass(frozen=True)
class CategoryRow:
    """Harm in one category of prompts."""

    name: str
    benchmark: str
    category: str
    rate: SeedRate


@dataclass(frozen=True)
class Group:
    """All that the report says of the seeds of one model, task, data source, precision and settings."""

    model: str
    task: str
    data: str
    precision: str
    settings: str  # their hash, in short, where another group differs in nothing else; else ""
    key: tuple[str, ...]
    seeds: list[int]
    benchmarks: dict[str, str]  # what tables call them
    utility: str | None
    harm: list[str]
    over_refusal: list[str]
    judge: str
    rule: str
    headline: list[HeadlineRow]
    paper: list[HeadlineRow]  # all prompts; empty where not every point answered them
    recovery: list[Recovery]
    choices: list[ChoiceRow]
    tests: list[ComparisonRow]
    measure_columns: list[continuous.MeasureColumn]
    measures: list[continuous.MeasureRow]
    measure_tests: list[continuous.MeasureTest]
    categories: list[CategoryRow]
    calibration: list[soundness.CalibrationRow]
    rules: list[soundness.RuleRow]
    usage: list[soundness.UsageRow]
    agreement: list[soundness.AgreementRow]
    checks: list[soundness.CheckRow]
    quality: list[soundness.QualityRow]
    power: list[soundness.PowerRow]
    notes: list[str]

    @property
    def title(self) -> str:
        """What the group is, in a line."""
        settings = f"settings {self.settings}" if self.settings else ""
        parts = (self.model, self.task, DATA.get(self.data, self.data), self.precision, settings)
        return ", ".join(part for part in parts if part)

    @property
    def first_harm(self) -> str:
        """The harm benchmark that the selection looks at; "" without one."""
        return next(iter(self.harm), "")

    def name_of(self, benchmark: str | None) -> str:
        """What tables call a benchmark."""
        return self.benchmarks.get(str(benchmark), str(benchmark))

    def displays(self) -> dict[str, Display]:
        """How each row's method is drawn."""
        return {row.name: row.display for row in self.headline}


def analyse(entries: list[Entry], *, keep: float, slack: float = selection.SLACK) -> list[Group]:
    """The groups, in order of first appearance."""
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.key, []).append(entry)
    alike = Counter(key[:4] for key in groups)
    return [
        _group(members, key[4][:6] if alike[key[:4]] > 1 else "", keep, slack)
        for key, members in groups.items()
    ]


def _group(entries: list[Entry], settings: str, keep: float, slack: float) -> Group:
    first = entries[0]
    for entry, name in ((other, name) for other in entries for name in other.items):
        if [item.id for item in entry.items[name]] != [item.id for item in first.items[name]]:
            raise UserError(
                f"seeds {first.spec.seed} and {entry.spec.seed} of {first.spec.model} answered other prompts of {name}: "
                "their data changed in between; run one of them again"
            )
    selected = [choose_points(entry, "dev", keep, slack) for entry in entries]
    points = [chosen for chosen, _ in selected]
    whole = all(p.answered(b, "all") for e in entries for p in e.points for b in p.completions)
    best = [choose_points(entry, "all", keep, slack)[0] for entry in entries] if whole else []
    return Group(
        model=first.spec.model,
        task=first.spec.task,
        data=first.spec.data,
        precision=first.key[3],
        settings=settings,
        key=first.key,
        seeds=[entry.spec.seed for entry in entries],
        benchmarks={name: its.name for name, its in first.spec.benchmarks.items()},
        utility=first.first("utility"),
        harm=first.benchmarks("harm"),
        over_refusal=first.benchmarks("over_refusal"),
        judge=first.judge,
        rule=selection.rule_text(keep, slack),
        headline=headline(entries, points, "test"),
        paper=headline(entries, best, "all") if whole else [],
        recovery=recovery(entries, points),
        choices=[choice for _, choices in selected for choice in choices],
        tests=[row for entry, chosen in zip(entries, points, strict=True) for row in tests(entry, chosen)],
        measure_columns=continuous.columns(first),
        measures=continuous.rows(entries, points, "test"),
        measure_tests=[
            row
            for entry, chosen in zip(entries, points, strict=True)
            for row in continuous.tests(entry, chosen)
        ],
        categories=categories(entries, points),
        calibration=soundness.calibration(entries),
        rules=soundness.rules(entries),
        usage=soundness.usage(entries),
        agreement=soundness.agreements(entries),
        checks=soundness.checks(entries),
        quality=soundness.qualities(entries, points),
        power=soundness.power(entries, points),
        notes=soundness.notes(entries),
    )


Pairs = list[tuple[Entry, Point]]


def _by_name(entries: list[Entry], chosen: list[Chosen]) -> dict[str, Pairs]:
    """Each row's point in every seed that has one."""
    names = dict.fromkeys(name for points in chosen for name in points)
    return {
        name: [(e, points[name]) for e, points in zip(entries, chosen, strict=True) if name in points]
        for name in names
    }


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
        )
        for name, pairs in _by_name(entries, chosen).items()
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
    for name, pairs in _by_name(entries, chosen).items():
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


def as_json(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """The groups as plain objects, for analysis.json."""
    found: list[dict[str, Any]] = TypeAdapter(list[Group]).dump_python(list(groups))
    return found
