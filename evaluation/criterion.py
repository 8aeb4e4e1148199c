"""Does the choice by rho do the work? rho beside its null, and SafeMERGE against as many modules chosen otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evaluation import paired, statistics
from evaluation.choosing import Chosen, first_of
from evaluation.results import COMBINE_NAMES, Entry, Point, of_role
from evaluation.run_file import Role
from safemerge.selection import Selection, select
from safemerge.table import ModuleRow, read_table

#: Selections that say nothing of the fine-tuning's rho, or the opposite of it.
OTHERWISE = ("random", "highest", "lowest_null", "lowest_ratio", "kinds", "layers")


@dataclass(frozen=True)
class NullRow:
    """How much of rho is its null in one seed, over the modules that have a rho.

    spearman: of rho and null; explained: share of the variance of log rho, r^2. Of the `merged` modules of SafeMERGE's
    first row, `shared` are among as many of lowest null; `chance`: as many as two independent choices share in the mean.
    """

    seed: int
    modules: int
    spearman: float
    explained: float
    merged: int
    shared: int
    chance: float


@dataclass(frozen=True)
class KindRow:
    """The modules of one kind in all seeds: medians, and the share that SafeMERGE's first row merges."""

    kind: str
    modules: int  # of one seed
    rho: float
    null: float
    ratio: float
    merged: float


@dataclass(frozen=True)
class ControlRow:
    """SafeMERGE minus a control with the same arithmetic, on the same prompts of the test half; rates in [-1, 1].

    The control's draws are averaged prompt by prompt. The mean over seeds, with an interval that covers seeds and prompts;
    `values`: a seed each. `shared`: of SafeMERGE's modules, the share that the control merges too, the mean.
    """

    benchmark: str
    role: Role
    ours: str
    against: str
    draws: int
    n: int
    difference: float
    low: float
    high: float
    values: list[float]
    merged: list[int]
    of_control: list[int]
    shared: float


#: By the control's name and its arithmetic: the seed, SafeMERGE's point, and the control's draws.
Pairs = dict[tuple[str, str | None], list[tuple[Entry, Point, list[Point]]]]


def module_rows(entry: Entry) -> list[ModuleRow]:
    """The modules of an entry that have a rho and a null: none where nothing was measured, or by an older version.

    Raises:
        UserError: the table is missing, or is none.
    """
    if not entry.spec.similarity:
        return []
    rows = read_table(entry.path(entry.spec.similarity), only_known=True)
    return [row for row in rows if not row.degenerate and row.null > 0 and row.rho > 0]


def nulls(entries: Sequence[Entry], chosen: Sequence[Chosen]) -> list[NullRow]:
    """How much of rho, and of what SafeMERGE selects, its null alone gives: a row per seed."""
    from scipy.stats import pearsonr, spearmanr

    found = []
    for entry, points in zip(entries, chosen, strict=True):
        rows = module_rows(entry)
        if len(rows) < 3 or len({row.null for row in rows}) == 1 or len({row.rho for row in rows}) == 1:
            continue
        rho, null = ([getattr(row, name) for row in rows] for name in ("rho", "null"))
        ours = first_of(points, "safemerge")
        merged = set(ours.spec.selected if ours else ()) & {row.module for row in rows}
        of_null = set(select(rows, Selection("lowest_null", k=len(merged))))
        logs = pearsonr([math.log(x) for x in rho], [math.log(x) for x in null])
        found.append(
            NullRow(
                seed=entry.spec.seed,
                modules=len(rows),
                spearman=float(spearmanr(rho, null).statistic),
                explained=float(logs.statistic) ** 2,
                merged=len(merged),
                shared=len(merged & of_null),
                chance=len(merged) ** 2 / len(rows),
            )
        )
    return found


def kinds(entries: Sequence[Entry], chosen: Sequence[Chosen]) -> list[KindRow]:
    """rho, its null and their ratio by kind of module, in execution order."""
    from statistics import median

    tables = [module_rows(entry) for entry in entries]
    ours = [first_of(points, "safemerge") for points in chosen]
    picked = [set(point.spec.selected) if point else set() for point in ours]
    found = []
    for kind in dict.fromkeys(row.kind for rows in tables for row in rows):
        both = [(row, row.module in its) for rows, its in zip(tables, picked, strict=True) for row in rows]
        of_kind = [(row, merged) for row, merged in both if row.kind == kind]
        share = sum(merged for _, merged in of_kind) / len(of_kind)
        seeds = sum(any(row.kind == kind for row in rows) for rows in tables)
        found.append(
            KindRow(
                kind=kind,
                modules=round(len(of_kind) / seeds),
                rho=median(row.rho for row, _ in of_kind),
                null=median(row.null for row, _ in of_kind),
                ratio=median(row.ratio for row, _ in of_kind),
                merged=share,
            )
        )
    return found


def matched(entries: Sequence[Entry], chosen: Sequence[Chosen]) -> Pairs:
    """SafeMERGE and each control that blends as many modules, chosen otherwise, by the same arithmetic; a pair per seed."""
    pairs: Pairs = {}
    for entry, points in zip(entries, chosen, strict=True):
        families: dict[tuple[str, str | None], list[Point]] = {}
        for point in points.values():
            if point.spec.display.control and point.spec.rule in OTHERWISE:
                name = point.spec.display.name or point.method
                families.setdefault((name, point.spec.combine), []).append(point)
        for (name, combine), draws in families.items():
            same = (p for p in points.values() if p.method == "safemerge" and p.spec.combine == combine)
            if (ours := next(same, None)) is not None:
                pairs.setdefault((name, combine), []).append((entry, ours, draws))
    return pairs


def controls(entries: Sequence[Entry], chosen: Sequence[Chosen]) -> list[ControlRow]:
    """SafeMERGE minus each of its controls: a row per benchmark and control."""
    pairs = matched(entries, chosen)
    return [
        row
        for benchmark in (entries[0].roles if entries else ())
        for (name, combine), its in pairs.items()
        if (row := _control(benchmark, name, combine, its))
    ]


def _control(
    benchmark: str, name: str, combine: str | None, its: Sequence[tuple[Entry, Point, list[Point]]]
) -> ControlRow | None:
    """One control on one benchmark; None where no seed has a prompt with valid outcomes of both."""
    answered = [
        (entry, ours, draws)
        for entry, ours, draws in its
        if all(point.answered(benchmark, "test") for point in (ours, *draws))
    ]
    found = paired.of_outcomes(
        [
            [
                paired.gaps(*(of_role(entry, point, benchmark, "test") for point in (ours, draw)))
                for draw in draws
            ]
            for entry, ours, draws in answered
        ]
    )
    if found is None:
        return None
    ours = answered[0][1]
    both_sets = [(set(p.spec.selected), set(d.spec.selected)) for _, p, draws in answered for d in draws]
    arithmetic = COMBINE_NAMES.get(combine or "", combine or "")
    return ControlRow(
        benchmark=benchmark,
        role=answered[0][0].roles[benchmark],
        ours=f"{ours.spec.display.name or ours.method} ({arithmetic})",
        against=name,
        draws=max(len(draws) for _, _, draws in answered),
        n=found.n,
        difference=found.difference,
        low=found.low,
        high=found.high,
        values=found.values,
        merged=[p.spec.merged_modules for _, p, _ in answered],
        of_control=[draws[0].spec.merged_modules for _, _, draws in answered],
        shared=statistics.mean([len(a & b) / len(a) for a, b in both_sets if a]),
    )
