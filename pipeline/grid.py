"""From the similarity table to the candidates: which modules each point selects, its adapter, and the steps that ask it.

Two points that select the same modules become one adapter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from evaluation.choosing import ENDS
from evaluation.run_file import HALVES, HalfName
from pipeline import again, answers, artifacts
from pipeline.plan import Experiment, Source
from pipeline.stage_settings import Merge
from pipeline.store import External, Step, Store
from safemerge.errors import UserError
from safemerge.selection import Point, resolve_tau, select
from safemerge.table import ModuleRow

# An adapter from outside is served as one of ours, since engines read PEFT's spelling and one rank only.
_AS_IT_IS = Point("as it is", "as it is")
ByHalf = Mapping[HalfName, Step]


@dataclass(frozen=True)
class Repaired:
    """A method at one setting: the modules that it selects, and its adapter (None: the aligned model itself)."""

    method: str  # its name in the config
    point: Point
    tau: float | None
    selected: tuple[str, ...]
    modules: int
    adapter: Source | None

    @property
    def row(self) -> tuple[str, int | None]:
        """The row of the tables for which one of its points is selected: a file of conf/method is one, or one per draw."""
        return self.method, self.draw

    @property
    def draw(self) -> int | None:
        """The number of a random selection's draw."""
        selection = self.point.selection
        return selection.seed if selection.rule == "random" else None


@dataclass(frozen=True)
class Candidate(Repaired):
    """One row of the results, with the steps that make what is said of it."""

    completions: Mapping[str, ByHalf] = field(
        default_factory=dict
    )  # by benchmark; the halves that it answers
    verdicts: Mapping[str, Mapping[str, ByHalf]] = field(default_factory=dict)  # by benchmark and judge
    measures: Mapping[str, ByHalf] = field(default_factory=dict)  # by benchmark
    parity: Step | None = None  # the engine against transformers, on the half answered first; greedy only

    @property
    def replies(self) -> list[Step]:
        """All steps that generate its completions."""
        return [step for halves in self.completions.values() for step in halves.values()]

    @property
    def likelihoods(self) -> list[Step]:
        """All steps that measure what it finds likely."""
        return [step for halves in self.measures.values() for step in halves.values()]

    def judged_by(self, judge: str | None = None) -> list[Step]:
        """The steps that judge its completions: all, or those of one judge."""
        return [
            step
            for judges in self.verdicts.values()
            for name, halves in judges.items()
            for step in halves.values()
            if judge in (None, name)
        ]


def candidates(experiment: Experiment, store: Store, chosen: frozenset[str] | None = None) -> list[Candidate]:
    """The points of the grid with their adapters. Needs the similarity table in the store, if any point merges.

    With `selection.grid: dev` each half is answered only by those it is read of: the development half by the points of a
    grid and the two ends that they are measured against, the test half by what is reported on it.

    chosen: the labels of the points of a grid that answer the test half too, once they are selected.
    """
    found = repaired(experiment, store)
    rows = Counter(its.row for its in found)

    def halves(its: Repaired) -> tuple[HalfName, ...]:
        if experiment.config.selection.grid == "all":
            return HALVES
        if experiment.config.selection.grid == "none":
            return ("test",)
        if rows[its.row] > 1:
            return HALVES if its.point.label in (chosen or ()) else ("dev",)
        return HALVES if its.point.method in ENDS else ("test",)

    return [_with_steps(experiment, its, halves(its)) for its in found]


def repaired(experiment: Experiment, store: Store) -> list[Repaired]:
    """Every point with the modules that it selects and its adapter.

    Raises:
        UserError: a point merges, and the similarity table is not in the store.
    """
    known = store.has(experiment.similarity)
    rows = artifacts.similarity(store.path(experiment.similarity)) if known else None
    found = []
    for method, point in _points(experiment):
        bare = point.adapter == "none" or point.repair.kind == "drop"
        adapter = None if bare else experiment.adapters[point.adapter]
        selected: tuple[str, ...] = ()
        tau = None
        if adapter is not None and point.repair.kind != "keep":
            if rows is None:
                raise UserError(
                    "the similarity table is missing: include the similarity stage, as in stages=[similarity,merge,...]"
                )
            selected, tau = _selected(point, rows)
            adapter = _merged(experiment, point, adapter, selected) if selected else adapter
        if isinstance(adapter, External):
            adapter = _merged(experiment, _AS_IT_IS, adapter, ())
        if point.again is not None and adapter is not None:
            adapter = again.tuned(experiment, adapter, point.again)
            if point.again.renewed and selected:
                adapter = _merged(experiment, point, adapter, selected)
        found.append(Repaired(method, point, tau, selected, len(rows or ()), adapter))
    return found


def _points(experiment: Experiment) -> Iterator[tuple[str, Point]]:
    return ((method, point) for method, its in experiment.methods.items() for point in its)


def _selected(point: Point, rows: list[ModuleRow]) -> tuple[tuple[str, ...], float | None]:
    """The modules that the point selects, and its tau as a number."""
    tau = None if point.tau is None else resolve_tau(point.tau, rows)
    return tuple(select(rows, point.selection)), tau


def _merged(experiment: Experiment, point: Point, task: Source, selected: Iterable[str]) -> Step:
    """The step that repairs the selected modules."""
    inputs: dict[str, Source] = {"task": task}
    if point.repair.kind in ("blend", "add"):
        inputs["safety"] = experiment.adapters[point.safety]
    # An adapter from outside is compared with the models: is it of them, and are its modules called as theirs are?
    outside = any(isinstance(its, External) for its in inputs.values())
    if point.repair.kind == "project" or outside:
        inputs |= {"base": experiment.base, "aligned": experiment.aligned}
    its = Merge(list(selected), point.repair)
    return Step("merge", point.label, its.keyed(), inputs)


def _with_steps(experiment: Experiment, its: Repaired, halves: tuple[HalfName, ...]) -> Candidate:
    """The candidate that answers these halves of the prompts; selection does not look at over-refusal."""
    config, system = experiment.config, its.point.system_prompt

    def asked(benchmark: str) -> tuple[HalfName, ...]:
        if config.selection.grid == "dev" and config.benchmark[benchmark].role == "over_refusal":
            return tuple(half for half in halves if half == "test")
        return halves

    completions: dict[str, ByHalf] = {
        benchmark: {
            half: answers.completions(experiment, its.adapter, benchmark, half, system)
            for half in asked(benchmark)
        }
        for benchmark in config.benchmark
        if asked(benchmark)
    }
    verdicts: dict[str, Mapping[str, ByHalf]] = {
        benchmark: {
            judge: {half: answers.verdicts(experiment, step, judge) for half, step in by_half.items()}
            for judge in answers.judges_of(experiment, benchmark)
        }
        for benchmark, by_half in completions.items()
        if answers.judges_of(experiment, benchmark)
    }
    parity = None
    if config.generation.temperature == 0:
        first = [(b, by_half[halves[0]]) for b, by_half in completions.items() if halves[0] in by_half]
        parity = answers.parity(experiment, its.adapter, first, system)
    # Nothing is selected by continuous measures: they are wanted of the halves that the report reads.
    read = HALVES if config.selection.grid == "all" else ("test",)
    measures: dict[str, ByHalf] = {
        b: {
            half: answers.measures(experiment, its.adapter, b, half, system)
            for half in by_half
            if half in read
        }
        for b, by_half in completions.items()
    }
    return Candidate(
        **vars(its), completions=completions, verdicts=verdicts, measures=measures, parity=parity
    )
