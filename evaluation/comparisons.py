"""Selected points against one another: what each recovers and retains between the two ends, and the paired tests."""

from __future__ import annotations

from dataclasses import dataclass

from evaluation import statistics
from evaluation.choosing import ENDS, Chosen, first_of, rate_of
from evaluation.results import Entry, of_role
from evaluation.run_file import Role


@dataclass(frozen=True)
class Recovery:
    """What fine-tuning cost and gained, and how much of either a selected point leaves; one seed, test half.

    Rates in [0, 1]: `lost` is the harm that fine-tuning added to the aligned model, `recovered` how far a method is below
    the fine-tuned one again, `gained` the utility that fine-tuning added and `retained` how much of it a method still has.
    """

    seed: int
    name: str
    method: str
    lost: float
    recovered: float
    gained: float
    retained: float


@dataclass(frozen=True)
class ComparisonRow:
    """The selected SafeMERGE minus another method on the same prompts of one seed; p_holm over the methods."""

    seed: int
    benchmark: str
    role: Role
    against: str
    found: statistics.Paired
    p_holm: float


def recovery(entries: list[Entry], chosen: list[Chosen]) -> list[Recovery]:
    """How much of the lost safety each selected point recovers, and how much of the gained utility it retains."""
    rows: list[Recovery] = []
    for entry, points in zip(entries, chosen, strict=True):
        harm, utility = entry.first("harm"), entry.first("utility")
        ends = [first_of(points, method) for method in ENDS]
        if harm is None or utility is None or None in ends:
            continue
        (bad, tuned_bad), (good, tuned_good) = (
            [rate_of(entry, point, benchmark, "test").value for point in ends]
            for benchmark in (harm, utility)
        )
        rows += [
            Recovery(
                seed=entry.spec.seed,
                name=name,
                method=point.method,
                lost=tuned_bad - bad,
                recovered=tuned_bad - rate_of(entry, point, harm, "test").value,
                gained=tuned_good - good,
                retained=rate_of(entry, point, utility, "test").value - good,
            )
            for name, point in points.items()
            if not any(point is end for end in ends)
        ]
    return rows


def tests(entry: Entry, chosen: Chosen) -> list[ComparisonRow]:
    """The selected SafeMERGE minus every other method, per benchmark, on the test half; Holm over the methods."""
    ours = first_of(chosen, "safemerge")
    rows: list[ComparisonRow] = []
    for benchmark, role in entry.roles.items():
        family: list[tuple[str, statistics.Paired]] = []
        for name, point in chosen.items():
            # Points of a grid that only the development half was asked of have nothing to compare.
            both = ours is not None and all(p.answered(benchmark, "test") for p in (ours, point))
            if ours is not None and point is not ours and both:
                left, right = (of_role(entry, p, benchmark, "test") for p in (ours, point))
                family.append((name, statistics.compare(left, right)))
        adjusted = statistics.holm([found.p for _, found in family])
        rows += [
            ComparisonRow(entry.spec.seed, benchmark, role, name, found, p)
            for (name, found), p in zip(family, adjusted, strict=True)
        ]
    return rows
