"""From run.json and the artifacts it names to scored prompts."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from data.schema import Completion, Item, Measure, Verdict, read_rows
from evaluation.benchmarks.common import Scored
from evaluation.run_file import HALVES, BenchmarkRecord, EntryRecord, PointRecord, Role, RunFile, read_run
from safemerge.errors import UserError

SPLITS = (*HALVES, "all")
# The released code's own merge is PEFT's `linear`, which weights A and B apart; `exact` blends the updates themselves.
COMBINE_NAMES = {
    "peft_linear": "released merge",
    "exact": "exact merge",
    "dare_linear": "DARE merge",
    "ties": "TIES merge",
    "dare_ties": "DARE-TIES merge",
}
PHRASES = "refusal"  # the judge by phrases, the second one beside a guard model
Score = Callable[..., list[Scored]]
Row = TypeVar("Row")


@dataclass
class Point:
    """One adapter of one run: its completions, scored prompts (per judge) and continuous measures, by benchmark."""

    spec: PointRecord
    completions: dict[str, list[Completion]] = field(default_factory=dict)
    scored: dict[str, dict[str, list[Scored]]] = field(default_factory=dict)
    measures: dict[str, dict[str, float]] = field(default_factory=dict)  # by benchmark and prompt

    @property
    def method(self) -> str:
        return self.spec.method

    @property
    def label(self) -> str:
        return self.spec.label

    def answered(self, benchmark: str, split: str) -> bool:
        """Whether it answered these prompts of a benchmark: dev, test, or all. A grid may stop at the development half."""
        wanted = HALVES if split == "all" else (split,)
        return benchmark in self.completions and set(wanted) <= set(self.spec.halves.get(benchmark, HALVES))


@dataclass
class Entry:
    """One (model, task, seed) of a run.json, loaded and scored."""

    spec: EntryRecord
    root: Path
    items: dict[str, list[Item]]
    settings: str = ""  # hash of all settings of its run but the seed
    points: list[Point] = field(default_factory=list)

    @property
    def judge(self) -> str:
        """The judge whose verdicts are the harm rates."""
        return self.spec.primary_judge

    @property
    def roles(self) -> dict[str, Role]:
        return {name: benchmark.role for name, benchmark in self.spec.benchmarks.items()}

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """What makes runs one experiment but for the seed: model, task, data source, precision and all other settings."""
        precision = dict.fromkeys((self.spec.precision.training, self.spec.precision.generation))
        names = "/".join(p for p in precision if p)
        return self.spec.model, self.spec.task, self.spec.data, names, self.settings

    @property
    def prompts(self) -> str:
        """Which prompts the headline is of: the half that nothing was selected on, or all where nothing is selected."""
        selecting = any(item.half == "dev" for items in self.items.values() for item in items)
        return "test half" if selecting else "all prompts"

    @property
    def title(self) -> str:
        return f"{self.spec.model}, {self.spec.task}, seed {self.spec.seed}"

    def path(self, name: str) -> Path:
        """A path of run.json, relative to its folder unless absolute."""
        return self.root / name

    def benchmarks(self, role: Role) -> list[str]:
        """Benchmarks with this role, the headline first: the task's own, and the one that tau and alpha are selected by."""
        first = {"utility": self.spec.task, "harm": self.spec.selection_benchmark}.get(role)
        return sorted((n for n, its in self.roles.items() if its == role), key=lambda n: n != first)

    def first(self, role: Role) -> str | None:
        """The headline benchmark of a role, if there is one."""
        return next(iter(self.benchmarks(role)), None)

    def benchmark_name(self, name: str) -> str:
        """What tables call a benchmark."""
        return self.spec.benchmarks[name].name

    def row_name(self, point: Point) -> str:
        """What tables call a point: its method, how it combines, and the draw where the run holds several."""
        spec = point.spec
        parts = [COMBINE_NAMES.get(spec.combine, spec.combine)] if spec.combine else []
        if len({p.spec.draw for p in self.points if p.method == point.method}) > 1:
            parts.append(f"draw {spec.draw}")
        name = spec.display.name or spec.method
        return f"{name} ({', '.join(parts)})" if parts else name


def keep_of(runs: Sequence[RunFile]) -> float:
    """The share of the gained utility that the runs' own configuration asks a selected point to keep."""
    found = sorted({run.keep_gain for run in runs})
    if len(found) > 1:
        raise UserError(
            f"the runs were made with different selection.keep_gain ({', '.join(map(str, found))}): report them "
            "apart, or give evaluation.report one --keep for all"
        )
    return found[0]


def load(path: Path) -> tuple[RunFile, list[Entry]]:
    """The run and its scored entries."""
    run = read_run(path)
    return run, [load_entry(spec, path.parent, run.settings) for spec in run.runs]


def load_entry(spec: EntryRecord, root: Path, settings: str = "") -> Entry:
    """Read items, completions and verdicts of one entry and score them."""
    items = {name: read_rows(root / its.items, Item) for name, its in spec.benchmarks.items()}
    entry = Entry(spec, root, items, settings)
    entry.points = [load_point(point, entry) for point in spec.points]
    return entry


def load_point(spec: PointRecord, entry: Entry) -> Point:
    """Score one point on every benchmark that it has completions for."""
    point = Point(spec)
    for name, files in spec.completions.items():
        if name not in entry.spec.benchmarks:
            raise UserError(f"point {spec.label!r} has completions for {name!r}, which the run does not list")
        score = scorer(name, entry.spec.benchmarks[name])[0]
        rows = point.completions[name] = _rows(entry, files, Completion)
        items = [item for item in entry.items[name] if point.answered(name, item.half)]
        if entry.roles[name] == "utility":
            point.scored[name] = {"": score(items, rows)}
            continue
        point.scored[name] = {
            judge: score(items, rows, _rows(entry, its, Verdict))
            for judge, its in spec.verdicts.get(name, {}).items()
        }
    for name, files in spec.measures.items():
        point.measures[name] = {row.id: row.value for row in _rows(entry, files, Measure)}
    return point


def _rows(entry: Entry, files: Sequence[str], kind: type[Row]) -> list[Row]:
    """The rows of one file per half."""
    return [row for file in files for row in read_rows(entry.path(file), kind)]


def scorer(name: str, benchmark: BenchmarkRecord) -> tuple[Score, ModuleType]:
    """The score function of a benchmark, and its module."""
    module, _, function = benchmark.target.rpartition(".")
    try:
        found = importlib.import_module(module)
        return getattr(found, function), found
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"benchmark {name}: there is no scorer {benchmark.target} ({error})") from error


def primary(entry: Entry, point: Point, benchmark: str) -> list[Scored]:
    """Scored rows by the judge that counts: the primary one for harm, the first that read it for over-refusal.

    Empty where the point did not answer the benchmark.

    Raises:
        UserError: the judge that counts has not read it; another one's verdicts would pass for its.
    """
    if benchmark not in point.scored:
        return []
    scored, role = point.scored[benchmark], entry.roles[benchmark]
    wanted = {"utility": "", "over_refusal": next(iter(scored), PHRASES)}.get(role, entry.judge)
    if wanted not in scored:
        raise UserError(
            f"{point.label} has no verdicts of {wanted} on {benchmark}: run the judge stage again, then the report"
        )
    return scored[wanted]


def of_split(rows: Sequence[Scored], split: str) -> list[Scored]:
    """The rows of a half, or all of them."""
    return [row for row in rows if split in ("all", row.half)]


def outcomes(rows: Sequence[Scored], split: str) -> list[bool | None]:
    """One outcome per prompt of the split, in item order; None is an invalid verdict."""
    return [row.outcome for row in of_split(rows, split)]


def of_role(entry: Entry, point: Point, benchmark: str, split: str) -> list[bool | None]:
    """The headline outcomes of a benchmark: correct, harmful, or refused among the benign prompts."""
    rows = primary(entry, point, benchmark)
    if entry.roles[benchmark] == "over_refusal":
        rows = [row for row in rows if row.benign]
    return outcomes(rows, split)
