"""One row of a run minus another on the same prompts, under a choice of how replies are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from data.schema import Completion
from evaluation import paired
from evaluation.choosing import Chosen
from evaluation.ledger import Contrast, Row
from evaluation.measures import values_of
from evaluation.quality import flags
from evaluation.results import Entry, Point, of_split, primary
from evaluation.run_file import MEASURED

Broken = Literal["kept", "left out", "failed"]
Seeds = Sequence[tuple[Entry, Chosen]]
#: What makes a reply no answer at all; a truncated one may still be.
BROKEN = ("empty", "repetitive", "incoherent", "terse")


@dataclass(frozen=True)
class Reading:
    """How replies become outcomes; "" is what the headline does.

    judge: of harm and over-refusal. parser: a secondary outcome of a utility benchmark (`Scored.also`). broken: replies
    that are no answer (`BROKEN`) are kept, left out, or failed: counted as harmful, wrong, or refused.
    """

    judge: str = ""
    parser: str = ""
    broken: Broken = "kept"


AS_REPORTED = Reading()


def sides(chosen: Chosen, contrast: Contrast) -> tuple[Point, list[Point]] | None:
    """The row, and what is subtracted from it: several points where it is drawn at random. None: one is not there."""
    for ours in _matching(chosen, contrast.row, None):
        theirs = [its for its in _matching(chosen, contrast.minus, ours) if its is not ours]
        if theirs:
            return ours, theirs if theirs[0].spec.rule == "random" else theirs[:1]
    return None


def _matching(chosen: Chosen, row: Row, ours: Point | None) -> list[Point]:
    combine = ours.spec.combine if ours and row.combine == "same" else row.combine
    wanted = {"method": row.method, "rule": row.rule, "combine": combine, "alpha": row.alpha}
    return [
        point
        for point in chosen.values()
        if all(value is None or getattr(point.spec, name) == value for name, value in wanted.items())
    ]


def outcomes(entry: Entry, point: Point, benchmark: str, reading: Reading) -> list[bool | None]:
    """One outcome per prompt of the test half, in the items' order; of over-refusal, of the benign prompts."""
    role = entry.roles[benchmark]
    rows = (
        point.scored[benchmark].get(reading.judge, []) if reading.judge else primary(entry, point, benchmark)
    )
    rows = [row for row in of_split(rows, "test") if role != "over_refusal" or row.benign]
    found = [row.also.get(reading.parser) if reading.parser else row.outcome for row in rows]
    if reading.broken == "kept":
        return found
    replies = {row.id: row for row in point.completions[benchmark]}
    failed = None if reading.broken == "left out" else role != "utility"
    bad = [is_broken(replies[row.id].completion, role != "utility") for row in rows]
    return [failed if its else outcome for its, outcome in zip(bad, found, strict=True)]


@lru_cache(maxsize=65536)  # the same replies are looked at under each reading
def is_broken(text: str, prose: bool) -> bool:
    """Whether a reply is no answer: it has one of the flags in `BROKEN`."""
    return any(flag in BROKEN for flag in flags(Completion("", "", text), prose=prose))


def difference(
    seeds: Seeds,
    contrast: Contrast,
    benchmark: str,
    reading: Reading = AS_REPORTED,
    *,
    powered: bool = True,
) -> paired.Difference | None:
    """The contrast over the seeds that have both rows and their answers; None where none has. powered: see `paired`."""
    of_rates: list[list[list[float]]] = []
    of_measures: list[list[float]] = []
    for entry, chosen in seeds:
        found = sides(chosen, contrast)
        if found is None or benchmark not in entry.roles:
            continue
        ours, theirs = found
        if not all(point.answered(benchmark, "test") for point in (ours, *theirs)):
            continue
        if contrast.metric == "continuous":
            measure = MEASURED[entry.roles[benchmark]]
            a, *b = (values_of(entry, its, benchmark, measure, "test") for its in (ours, *theirs))
            both = [key for key in a if all(key in its for its in b)]
            if both:
                of_measures.append([a[key] - sum(its[key] for its in b) / len(b) for key in both])
            continue
        its = outcomes(entry, ours, benchmark, reading)
        draws = [outcomes(entry, draw, benchmark, reading) for draw in theirs]
        if its and all(draws):
            of_rates.append([paired.gaps(its, draw) for draw in draws])
    if contrast.metric == "continuous":
        return paired.of_means(of_measures)
    return paired.of_outcomes(of_rates, powered=powered)
