"""What the report says: the selected points, the headline on the test half, the paper's protocol, the paired tests.

Runs that share all settings but the seed form a group; its entries are seeds. Everything is selected within a
seed; a group's row is the mean over seeds, with each seed's value and an interval that covers seeds and prompts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from evaluation import criterion, deciding, measure_controls, selection, soundness, specifications
from evaluation import measures as continuous
from evaluation.choosing import ChoiceRow, choose_points
from evaluation.comparisons import ComparisonRow, Recovery, recovery, tests
from evaluation.headline import CategoryRow, HeadlineRow, categories, headline
from evaluation.results import Entry
from evaluation.run_file import Display
from safemerge.errors import UserError

#: Where data comes from, as tables say it.
DATA = {"bundled": "bundled stand-in data", "local": "local copies", "hub": "hub data"}


@dataclass(frozen=True)
class Group:
    """All that the report says of the seeds of one model, task, data source, precision and settings."""

    model: str
    task: str
    data: str
    precision: str
    prompts: str  # of the headline and the tests: `Entry.prompts`
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
    controls: list[criterion.ControlRow]
    nulls: list[criterion.NullRow]
    kinds: list[criterion.KindRow]
    measure_columns: list[continuous.MeasureColumn]
    measures: list[continuous.MeasureRow]
    measure_tests: list[continuous.MeasureTest]
    measure_controls: list[measure_controls.MeasureControlRow]
    categories: list[CategoryRow]
    calibration: list[soundness.CalibrationRow]
    rules: list[soundness.RuleRow]
    usage: list[soundness.UsageRow]
    agreement: list[soundness.AgreementRow]
    checks: list[soundness.CheckRow]
    quality: list[soundness.QualityRow]
    power: list[soundness.PowerRow]
    claims: list[deciding.ClaimRow]
    multiverse: list[specifications.Curve]
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
        prompts=first.prompts,
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
        controls=criterion.controls(entries, points),
        nulls=criterion.nulls(entries, points),
        kinds=criterion.kinds(entries, points),
        measure_columns=continuous.columns(first),
        measures=continuous.rows(entries, points, "test"),
        measure_tests=[
            row
            for entry, chosen in zip(entries, points, strict=True)
            for row in continuous.tests(entry, chosen)
        ],
        measure_controls=measure_controls.controls(entries, points),
        categories=categories(entries, points),
        calibration=soundness.calibration(entries),
        rules=soundness.rules(entries),
        usage=soundness.usage(entries),
        agreement=soundness.agreements(entries),
        checks=soundness.checks(entries),
        quality=soundness.qualities(entries, points),
        power=soundness.power(entries, points),
        claims=deciding.claims(list(zip(entries, points, strict=True))),
        multiverse=specifications.curves([(first.key[3], list(zip(entries, points, strict=True)))]),
        notes=soundness.notes(entries),
    )


def as_json(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """The groups as plain objects, for analysis.json."""
    found: list[dict[str, Any]] = TypeAdapter(list[Group]).dump_python(list(groups))
    return found
