"""Harm and utility over the settings of the fine-tuning: where there is damage, order of the repairs, frontier."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from evaluation import contrast
from evaluation.choosing import ENDS, Chosen, choose_points
from evaluation.headline import SeedRate, summary
from evaluation.ledger import Contrast, Row
from evaluation.paired import Difference
from evaluation.results import Entry, Point, keep_of, load, of_role
from evaluation.run_file import Display
from safemerge.errors import UserError

#: What the fine-tuning is set by: its name in tables, and where a config has it; later places override.
KNOBS: dict[str, tuple[str, ...]] = {
    "learning rate": ("train.args.learning_rate", "train.task.args.learning_rate"),
    "epochs": ("train.args.num_train_epochs", "train.task.args.num_train_epochs"),
    "steps": ("train.args.max_steps", "train.task.args.max_steps"),
    "rank": ("train.lora.r",),
    "rows": ("train.task.limit",),
}
DAMAGE = Contrast(
    role="harm", row=Row(method="finetuned"), minus=Row(method="aligned"), direction="more", least=0.05
)
#: The shares of the utility that any fine-tuning gains, at which the rows are compared.
LEVELS = (0.5, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Cell:
    """One row of a setting: harm and utility on the test half over the seeds, and on the half that it is chosen by."""

    name: str
    method: str
    display: Display
    harm: SeedRate
    utility: SeedRate
    dev_harm: float
    dev_utility: float


@dataclass(frozen=True)
class Setting:
    """The seeds of one setting of the fine-tuning."""

    knobs: dict[str, str]
    seeds: list[int]
    damage: Difference | None  # fine-tuned minus aligned, harm
    cells: list[Cell]

    @property
    def name(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.knobs.items())

    @property
    def damaged(self) -> bool:
        """Whether there is anything to repair: the interval of the damage lies above zero."""
        return self.damage is not None and self.damage.low > 0

    def cell(self, method: str) -> Cell | None:
        """The first row of a method."""
        return next((cell for cell in self.cells if cell.method == method), None)

    @property
    def repairs(self) -> dict[str, Cell]:
        """The rows that repair, with a known harm; controls are none."""
        return {
            cell.name: cell
            for cell in self.cells
            if cell.method not in ENDS and not cell.display.control and not math.isnan(cell.harm.value)
        }


@dataclass(frozen=True)
class Sweep:
    """All settings of one model, task, data and precision. harm, utility: what tables call the benchmarks."""

    title: str
    harm: str
    utility: str
    settings: list[Setting]


@dataclass(frozen=True)
class OrderRow:
    """Two settings: Kendall's tau-b of the harm that the repairs common to both leave, and its exact p."""

    one: Setting
    other: Setting
    repairs: int
    kendall: float
    p: float


@dataclass(frozen=True)
class FrontierRow:
    """Of one method, over all settings: the row of lowest harm on the development half that keeps a level of utility there.

    cells: one per level, with its setting; None where no setting of it reaches it. known: whether the development half
    was answered by it at all, which a row that is not tuned does not do.
    """

    name: str
    cells: list[tuple[Cell, Setting] | None]
    known: bool


def sweeps(paths: Sequence[Path]) -> list[Sweep]:
    """The runs by model, task, data and precision, in each the settings of the fine-tuning that they differ in.

    Raises:
        UserError: a run cannot be read, or no two of one model differ in the settings of the fine-tuning.
    """
    loaded = [load(path / "run.json" if path.is_dir() else path) for path in paths]
    keep = keep_of([run for run, _ in loaded])
    groups: dict[tuple[str, ...], dict[tuple[tuple[str, str], ...], list[tuple[Entry, Chosen]]]] = {}
    for run, entries in loaded:
        knobs = tuple((name, value) for name in KNOBS if (value := _value(run.config, KNOBS[name])))
        for entry in entries:
            seeds = groups.setdefault(entry.key[:4], {}).setdefault(knobs, [])
            if any(entry.spec.seed == other.spec.seed for other, _ in seeds):
                raise UserError(
                    f"two runs of {entry.title} have the same settings of the fine-tuning: give one of them"
                )
            seeds.append((entry, choose_points(entry, "dev", keep)[0]))
    found = [_sweep(key, settings) for key, settings in groups.items() if len(settings) > 1]
    if not found:
        raise UserError(
            f"no two of {', '.join(map(str, paths))} are of one model, task and data and differ in {', '.join(KNOBS)} "
            "of the fine-tuning: give the runs of experiment=sensitivity"
        )
    return found


def _value(config: object, places: Sequence[str]) -> str:
    """The setting at the last of these places that has one, as text."""
    found = ""
    for place in places:
        its: object = config
        for name in place.split("."):
            its = its.get(name) if isinstance(its, Mapping) else None
        if its is not None:
            found = f"{its:g}" if isinstance(its, int | float) else str(its)
    return found


def _sweep(
    key: tuple[str, ...], settings: Mapping[tuple[tuple[str, str], ...], list[tuple[Entry, Chosen]]]
) -> Sweep:
    first = next(iter(settings.values()))[0][0]
    harm, utility = first.first("harm"), first.first("utility")
    if harm is None or utility is None:
        raise UserError(
            f"the runs of {', '.join(key)} lack a benchmark of harm or of utility: run both, as benchmark=[directharm] does"
        )
    differ = {name for name in KNOBS if len({dict(knobs).get(name) for knobs in settings}) > 1}
    found = [
        Setting(
            {name: value for name, value in knobs if name in differ},
            [entry.spec.seed for entry, _ in seeds],
            contrast.difference(seeds, DAMAGE, harm),
            _cells(seeds, harm, utility),
        )
        for knobs, seeds in settings.items()
    ]

    def strength(setting: Setting) -> float:
        tuned = setting.cell("finetuned")
        return tuned.utility.value if tuned and not math.isnan(tuned.utility.value) else -1.0

    return Sweep(
        ", ".join(part for part in key if part),
        first.benchmark_name(harm),
        first.benchmark_name(utility),
        sorted(found, key=strength),
    )


def _cells(seeds: Sequence[tuple[Entry, Chosen]], harm: str, utility: str) -> list[Cell]:
    names = dict.fromkeys(name for _, chosen in seeds for name in chosen)
    cells = []
    for name in names:
        pairs = [(entry, chosen[name]) for entry, chosen in seeds if name in chosen]
        first = pairs[0][1]
        (bad, dev_bad), (good, dev_good) = (
            [_rate(pairs, benchmark, split) for split in ("test", "dev")] for benchmark in (harm, utility)
        )
        cells.append(Cell(name, first.method, first.spec.display, bad, good, dev_bad.value, dev_good.value))
    return cells


def _rate(pairs: Sequence[tuple[Entry, Point]], benchmark: str, split: str) -> SeedRate:
    return summary([of_role(e, p, benchmark, split) for e, p in pairs if p.answered(benchmark, split)])


def orders(sweep: Sweep) -> list[OrderRow]:
    """Every two settings that have three repairs or more in common."""
    from scipy.stats import kendalltau

    found = []
    for one, other in combinations(sweep.settings, 2):
        common = [name for name in one.repairs if name in other.repairs]
        if len(common) < 3:
            continue
        sides = [[its.repairs[name].harm.value for name in common] for its in (one, other)]
        result = kendalltau(*sides)
        found.append(OrderRow(one, other, len(common), float(result.statistic), float(result.pvalue)))
    return found


def levels(sweep: Sweep) -> list[float]:
    """The utilities at which rows are compared: between the aligned model and the best fine-tuning, by `LEVELS`."""
    tuned = [its.dev_utility for s in sweep.settings if (its := s.cell("finetuned"))]
    plain = [its.dev_utility for s in sweep.settings if (its := s.cell("aligned"))]
    known = [value for value in (*tuned, *plain) if not math.isnan(value)]
    if not tuned or not plain or len(known) < len(tuned) + len(plain) or max(tuned) <= plain[0]:
        return []
    return [plain[0] + level * (max(tuned) - plain[0]) for level in LEVELS]


def frontier(sweep: Sweep) -> list[FrontierRow]:
    """Each row over all settings at matched utility; chosen on the development half, so that the test half is fresh."""
    wanted = levels(sweep)
    names = dict.fromkeys(
        cell.name
        for s in sweep.settings
        for cell in s.cells
        if cell.method != "aligned" and not cell.display.control
    )
    found = []
    for name in names if wanted else ():
        its = [(cell, s) for s in sweep.settings for cell in s.cells if cell.name == name]
        known = [(cell, s) for cell, s in its if not math.isnan(cell.dev_harm + cell.harm.value)]
        best: list[tuple[Cell, Setting] | None] = [
            min(
                (pair for pair in known if pair[0].dev_utility >= level - 1e-12),
                key=lambda pair: (pair[0].dev_harm, -pair[0].dev_utility),
                default=None,
            )
            for level in wanted
        ]
        found.append(FrontierRow(name, best, bool(known)))
    return found
