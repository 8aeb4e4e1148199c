"""What a run says of each claim: reproduced, not reproduced, or that its prompts and seeds could not show it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from evaluation.contrast import AS_REPORTED, Reading, Seeds, difference
from evaluation.criterion import module_rows
from evaluation.ledger import Claim, Contrast, Direction, Judges, Merged, Row, Stability, read_claims
from evaluation.overlap import chance
from evaluation.paired import Difference
from evaluation.results import COMBINE_NAMES, Entry

Outcome = Literal["reproduced", "not reproduced", "inconclusive", "not decidable", "not tested here"]
#: Of `Contrast`, by role where the metric is continuous.
UNITS = {"utility": "bits", "harm": "nats", "over_refusal": "nats"}


@dataclass(frozen=True)
class Decided:
    """An outcome, why, and what was measured (None: nothing, or a count)."""

    outcome: Outcome
    reason: str
    measured: str = ""
    found: Difference | None = None
    unit: str = "points"
    detectable: float = math.nan


@dataclass(frozen=True)
class ClaimRow:
    """A claim of the ledger, and what a group of seeds says of it."""

    id: str
    says: str
    by: str
    grade: str
    predicted: str
    stand_in: bool  # the data stands in for what the claim is about
    decided: Decided


def decide(found: Difference, direction: Direction, least: float) -> tuple[Outcome, str]:
    """The outcome of a claim about a difference, and why.

    With e, the difference in the claimed direction, its interval [low, high], and X, what is shown with 80 % power:

    more, less: reproduced where low > 0 and e >= least. Not reproduced where high < least, so an effect that counts is
    excluded, and the verdict stands on an effect that could have been seen: X <= least, or the opposite of X or more was.
    no_less, no_more: reproduced where low > -least. Not reproduced where high < -least and a loss of X or more was seen.
    Anything else is inconclusive: the absence of an effect below the power floor says nothing.
    """
    sign = 1.0 if direction in ("more", "no_less") else -1.0
    effect, shown = sign * found.difference, found.detectable
    low, high = sorted((sign * found.low, sign * found.high))
    opposite = not math.isnan(shown) and -effect >= shown
    if direction in ("no_less", "no_more"):
        if low > -least:
            return "reproduced", "the interval excludes a loss of the margin"
        if high < -least and opposite:
            return "not reproduced", "more than the margin is lost"
        return "inconclusive", "the interval covers the margin"
    if low > 0 and effect >= least:
        return "reproduced", "the interval excludes no effect"
    if high < least and shown <= least:
        return "not reproduced", "the interval excludes the smallest effect that counts"
    if high < least and opposite:
        return "not reproduced", "the opposite was seen"
    if high < 0:
        return (
            "inconclusive",
            "the interval lies on the other side, but what was seen is below what can be shown",
        )
    if low > 0:
        return "inconclusive", "the sign is as claimed; whether it is enough to count is open"
    return "inconclusive", "the interval covers no effect and one that counts"


def claims(seeds: Seeds) -> list[ClaimRow]:
    """Every claim of the ledger, decided by the seeds of one group."""
    ledger = read_claims()
    known = {claim.id: claim for claim in ledger}
    return [_row(claim, seeds, known) for claim in ledger]


def _row(claim: Claim, seeds: Seeds, known: dict[str, Claim]) -> ClaimRow:
    entry = seeds[0][0]
    stand_in = entry.spec.data == "bundled"
    return ClaimRow(
        id=claim.id,
        says=claim.says,
        by=claim.by,
        grade=", ".join(claim.grade),
        predicted=claim.predicted,
        stand_in=stand_in,
        decided=_elsewhere(claim, entry, stand_in) or _decided(claim, seeds, known),
    )


def _elsewhere(claim: Claim, entry: Entry, stand_in: bool) -> Decided | None:
    """That the claim is about another model, task or data than the run's, where it is."""
    where = claim.where
    if where is None:
        return None
    if where.model != entry.spec.model:
        return Decided("not tested here", f"{where.model}; this run is of {entry.spec.model}")
    if where.task not in (None, entry.spec.task):
        return Decided("not tested here", f"{where.task}; this run's task is {entry.spec.task}")
    if stand_in:
        return Decided("not tested here", "this run's data stands in for the benchmarks of the claim")
    return None


def _decided(claim: Claim, seeds: Seeds, known: dict[str, Claim]) -> Decided:
    if claim.given:
        basis = known[claim.given]
        found = _decided(basis, seeds, known)
        if found.outcome != "reproduced":
            said = basis.says.rstrip(".")
            return Decided(
                "not decidable", f"it needs that this is shown first, and it is not: {said}", found.measured
            )
    match claim.decided_by:
        case Contrast() as contrast:
            return of_contrast(contrast, seeds)
        case Stability() as stability:
            return _of_stability(stability, seeds)
        case Judges() as judges:
            return _of_judges([known[name] for name in judges.claims], seeds)
        case Merged() as merged:
            return _of_merged(merged, seeds)


def benchmark_of(contrast: Contrast, entry: Entry) -> str | None:
    """The benchmark that the contrast is measured on; None where the run has none of them."""
    if contrast.benchmark is None:
        return entry.first(contrast.role)
    return contrast.benchmark if contrast.benchmark in entry.roles else None


def of_contrast(contrast: Contrast, seeds: Seeds, reading: Reading = AS_REPORTED) -> Decided:
    """A claim about the difference of two rows."""
    entry = seeds[0][0]
    benchmark = benchmark_of(contrast, entry)
    if benchmark is None:
        return Decided("not decidable", f"no benchmark of {contrast.benchmark or contrast.role} in this run")
    found = difference(seeds, contrast, benchmark, reading)
    measured = f"{entry.benchmark_name(benchmark)}: {_name(contrast.row)} − {_name(contrast.minus)}"
    if found is None or math.isnan(found.low):
        return Decided(
            "not decidable", "rows missing in this run, or no valid answer of both on one prompt", measured
        )
    unit = UNITS[contrast.role] if contrast.metric == "continuous" else "points"
    outcome, why = decide(found, contrast.direction, contrast.least)
    return Decided(outcome, why, measured, found, unit, found.detectable)


def _name(row: Row) -> str:
    """A row in short: its method or rule, and its arithmetic."""
    first = row.method or {"lowest_null": "lowest null", "lowest_ratio": "lowest ρ/null"}.get(
        row.rule or "", row.rule or ""
    )
    combine = "" if row.combine in (None, "same") else f" ({COMBINE_NAMES.get(row.combine, row.combine)})"
    return f"{first}{combine}"


def _of_judges(claims: Sequence[Claim], seeds: Seeds) -> Decided:
    """Whether every judge that read the replies decides these claims alike, of those that some judge decides."""
    entry = seeds[0][0]
    differ, alike, open_ = [], [], []
    for claim in claims:
        contrast = claim.decided_by
        if not isinstance(contrast, Contrast) or (benchmark := benchmark_of(contrast, entry)) is None:
            continue
        judges = sorted(
            {judge for e, c in seeds for p in c.values() for judge in p.scored.get(benchmark, {})}
        )
        found = [of_contrast(contrast, seeds, Reading(judge=judge)).outcome for judge in judges]
        sure = {its for its in found if its in ("reproduced", "not reproduced")}
        if len(judges) > 1 and len(sure) > 1:
            differ.append(claim.id)
        elif len(judges) > 1 and sure and set(found) == sure:
            alike.append(claim.id)
        elif len(judges) > 1 and set(found) != {"not decidable"}:
            open_.append(claim.id)
    said = "; ".join(
        f"{text}: {', '.join(names)}"
        for text, names in (("decided otherwise", differ), ("alike", alike), ("open by a judge", open_))
        if names
    )
    if not said:
        return Decided("not decidable", "no claim of harm that two judges have read the replies of")
    outcome: Outcome = "not reproduced" if differ else "inconclusive" if open_ else "reproduced"
    return Decided(outcome, said, f"{len(differ + alike + open_)} claims, every judge")


def _of_merged(claim: Merged, seeds: Seeds) -> Decided:
    """A share of modules at a fixed tau, in every seed."""
    points = [
        point.spec
        for entry, _ in seeds
        for point in entry.points
        if point.method == "safemerge" and point.spec.tau_setting == claim.tau and point.spec.modules
    ]
    if not points:
        return Decided("not decidable", f"no row of SafeMERGE at τ = {claim.tau:g} in this run")
    shares = sorted({its.merged_modules / its.modules for its in points})
    ok = all(abs(share - claim.share) <= claim.within for share in shares)
    measured = f"{', '.join(f'{100 * its:.0f} %' for its in shares)} of the modules"
    return Decided("reproduced" if ok else "not reproduced", "a count, not a sample", measured)


def _of_stability(claim: Stability, seeds: Seeds) -> Decided:
    """The least agreement of any two seeds, with the interval that chance (or the number of modules) gives it."""
    if len(seeds) < 2:
        return Decided("not decidable", "one seed: there is nothing to compare its selection with")
    rows = _ratios(seeds) if claim.of == "ratio" else _overlaps(seeds)
    if not rows:
        return Decided("not decidable", "no two seeds with SafeMERGE at one τ, or without the table of ρ")
    value, low, high, shown = min(rows, key=lambda row: row[1])
    what = "Kendall's τ of ρ/null" if claim.of == "ratio" else "Jaccard index above chance"
    measured = f"{what}, the least of {len(rows)}: {value:.2f} [{low:.2f}, {high:.2f}]"
    if low > 0 and value >= claim.least:
        outcome: Outcome = "reproduced"
    elif high < claim.least and shown <= claim.least:
        outcome = "not reproduced"
    else:
        outcome = "inconclusive"
    reason = (
        f"{len(seeds)} seeds; an agreement of {shown:.2f} or more is beyond chance, {claim.least:g} counts"
    )
    return Decided(outcome, reason, measured)


def _overlaps(seeds: Seeds) -> list[tuple[float, float, float, float]]:
    """Of every two seeds at each tau: Jaccard index minus its mean by chance, its interval, and what is beyond chance."""
    found = []
    for (one, _), (other, _) in combinations(seeds, 2):
        sets = [
            {
                str(p.spec.tau_setting): (set(p.spec.selected), p.spec.modules)
                for p in e.points
                if p.method == "safemerge"
            }
            for e in (one, other)
        ]
        for tau in sets[0].keys() & sets[1].keys():
            (a, modules), (b, _) = sets[0][tau], sets[1][tau]
            if not a or not b or len(a) == len(b) == modules:
                continue
            mean, low, high, _p = chance(modules, len(a), len(b), len(a & b))
            jaccard = len(a & b) / len(a | b)
            found.append((jaccard - mean, jaccard - high, jaccard - low, high - mean))
    return found


def _ratios(seeds: Seeds) -> list[tuple[float, float, float, float]]:
    """Of every two seeds: Kendall's tau of rho/null, its 95 % interval, and the smallest that differs from none.

    Fieller, Hartley & Pearson 1957: atanh(tau) has the variance 0.437 / (n - 4).
    """
    from scipy.stats import kendalltau

    found = []
    tables = [{row.module: row.ratio for row in module_rows(entry)} for entry, _ in seeds]
    for a, b in combinations(tables, 2):
        common = [name for name in a if name in b]
        if len(common) < 5 or len({a[name] for name in common}) == 1:
            continue
        value = float(kendalltau([a[name] for name in common], [b[name] for name in common]).statistic)
        half = 1.96 * math.sqrt(0.437 / (len(common) - 4))
        middle = math.atanh(max(-0.9999, min(0.9999, value)))
        found.append((value, math.tanh(middle - half), math.tanh(middle + half), math.tanh(half)))
    return found
