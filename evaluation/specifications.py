"""The verdict multiverse: each claim under every way of reading the stored rows, and how often it flips."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from evaluation.contrast import BROKEN, Broken, Reading, Seeds, difference
from evaluation.deciding import UNITS, benchmark_of
from evaluation.ledger import Claim, Contrast, read_claims
from evaluation.paired import Difference
from evaluation.results import COMBINE_NAMES

Found = Literal["as claimed", "not significant", "against"]
FILTERS: dict[Broken, str] = {
    "kept": "broken replies kept",
    "left out": "broken left out",
    "failed": "broken count against",
}
REPORTED = "as reported"
#: What the filters call broken: flags of `evaluation.quality`.
BROKEN_TEXT = ", ".join(BROKEN)


@dataclass(frozen=True)
class Cell:
    """A claim under one specification: its choice in each dimension, and what was found."""

    choices: dict[str, str]
    found: Difference
    headline: bool  # as the report reads it


@dataclass(frozen=True)
class Curve:
    """A claim under all specifications that the rows allow.

    sign: of the claimed difference. line: what it should lie above, 0 or less by the margin that may be lost.
    """

    id: str
    says: str
    unit: str
    sign: int
    line: float
    cells: list[Cell]

    @property
    def headline(self) -> Cell:
        return next((cell for cell in self.cells if cell.headline), self.cells[0])

    @property
    def dimensions(self) -> dict[str, list[str]]:
        """The dimensions in which its cells differ, with their choices."""
        every = {
            name: list(dict.fromkeys(c.choices[name] for c in self.cells)) for name in self.cells[0].choices
        }
        return {name: its for name, its in every.items() if len(its) > 1}

    def significance(self, cell: Cell) -> Found:
        """Which side of the line its interval lies on."""
        low, high = sorted((self.sign * cell.found.low, self.sign * cell.found.high))
        return "as claimed" if low > self.line else "against" if high < self.line else "not significant"

    def count(self, found: Found) -> int:
        return sum(self.significance(cell) == found for cell in self.cells)

    @property
    def flipped_signs(self) -> int:
        """Specifications under which the difference lies on the other side of the line than in the headline."""
        above = [self.sign * cell.found.difference > self.line for cell in (self.headline, *self.cells)]
        return sum(its != above[0] for its in above[1:])

    @property
    def flipped_significance(self) -> int:
        """Specifications under which the interval lies otherwise than in the headline."""
        first = self.significance(self.headline)
        return sum(self.significance(cell) != first for cell in self.cells)


def curves(universes: Sequence[tuple[str, Seeds]]) -> list[Curve]:
    """Our claims about a difference that the rows allow more than one reading of.

    universes: the seeds of each precision, the one that the headline is of first; same model, task and data.
    """
    found = []
    seen: set[tuple[object, ...]] = set()
    for claim in read_claims():
        its = claim.decided_by
        if claim.by == "paper" or not isinstance(its, Contrast):
            continue
        alike = (its.role, its.metric, its.row.method, its.minus.method, its.minus.rule)
        if not _arithmetic_is_fixed(its):
            if alike in seen:  # the same claim of another arithmetic, which is one of the dimensions
                continue
            seen.add(alike)
        cells = _cells(claim, its, universes)
        if len(cells) > 1:
            unit = UNITS[its.role] if its.metric == "continuous" else "points"
            sign = 1 if its.direction in ("more", "no_less") else -1
            line = -its.least if its.direction.startswith("no_") else 0.0
            found.append(Curve(claim.id, claim.across or claim.says, unit, sign, line, cells))
    return found


def _arithmetic_is_fixed(contrast: Contrast) -> bool:
    """Whether the claim is about an arithmetic, or about none."""
    return contrast.row.method != "safemerge" or contrast.minus.method == "safemerge"


def _cells(claim: Claim, contrast: Contrast, universes: Sequence[tuple[str, Seeds]]) -> list[Cell]:
    cells: list[Cell] = []
    for precision, seeds in universes:
        entry = seeds[0][0]
        first = benchmark_of(contrast, entry)
        for benchmark in [contrast.benchmark] if contrast.benchmark else entry.benchmarks(contrast.role):
            if benchmark not in entry.roles:
                continue
            for combine in _arithmetics(contrast, seeds):
                row = contrast.row.model_copy(update={"combine": combine} if combine else {})
                its = contrast.model_copy(update={"row": row})
                kept: dict[str, Difference] = {}
                for name, reading in _readings(its, seeds, benchmark):
                    found = difference(seeds, its, benchmark, reading, powered=False)
                    if found is None or math.isnan(found.low):
                        continue
                    # Where no reply is broken, or both parsers read alike, it is not another specification.
                    if _same(found, kept.get(name)) or (reading.parser and _same(found, kept.get(REPORTED))):
                        continue
                    if reading.broken == "kept":
                        kept[name] = found
                    choices = {
                        "read by": name,
                        "broken replies": FILTERS[reading.broken],
                        "benchmark": entry.benchmark_name(benchmark),
                        "arithmetic": COMBINE_NAMES.get(combine or "", combine or "–"),
                        "precision": precision,
                    }
                    as_reported = reading.judge in (
                        "",
                        entry.judge if contrast.role == "harm" else reading.judge,
                    )
                    headline = (
                        not any(cell.headline for cell in cells)
                        and benchmark == first
                        and reading.broken == "kept"
                        and as_reported
                        and not reading.parser
                    )
                    cells.append(Cell(choices, found, headline))
    return cells


def _same(one: Difference, other: Difference | None) -> bool:
    return other is not None and (one.n, one.values, one.low) == (other.n, other.values, other.low)


def _arithmetics(contrast: Contrast, seeds: Seeds) -> list[str | None]:
    """The arithmetics of SafeMERGE's rows, the claim's own first; [None] where the claim is about one, or about none."""
    if _arithmetic_is_fixed(contrast):
        return [None]
    combines = [p.spec.combine for _, chosen in seeds for p in chosen.values() if p.method == "safemerge"]
    every = list(dict.fromkeys(its for its in combines if its))
    return sorted(every, key=lambda its: its != contrast.row.combine) or [None]


def _readings(contrast: Contrast, seeds: Seeds, benchmark: str) -> Iterator[tuple[str, Reading]]:
    """What the rows can be read by, the headline's way first: judges or parsers, times the filters."""
    if contrast.metric == "continuous":
        yield "likelihood", Reading()
        return
    entry = seeds[0][0]
    points = [point for _, chosen in seeds for point in chosen.values() if benchmark in point.scored]
    if contrast.role == "utility":
        rows = [row for point in points for row in next(iter(point.scored[benchmark].values()), [])]
        parsers = dict.fromkeys(name for row in rows for name in row.also)
        # A parser that reads every reply as the headline does is the headline's.
        others = [p for p in parsers if any(row.also.get(p, row.outcome) != row.outcome for row in rows)]
        ways = [(REPORTED, Reading()), *((name, Reading(parser=name)) for name in others)]
    else:
        judges = dict.fromkeys(judge for point in points for judge in point.scored[benchmark])
        first = entry.judge if contrast.role == "harm" else next(iter(judges), "")
        ordered = sorted(judges, key=lambda judge: judge != first)
        ways = [(judge, Reading(judge=judge)) for judge in ordered]
    for name, way in ways:
        for broken in FILTERS:
            yield name, Reading(way.judge, way.parser, broken)
