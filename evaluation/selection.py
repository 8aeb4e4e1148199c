"""Choosing tau and alpha honestly.

On the development half, by a rule stated before looking, reported on the other half.

The rule: among the points that keep at least `keep` of the utility that fine-tuning gained over the aligned
model, the one with the lowest harm; ties go to the higher utility, then to fewer merged modules. If
fine-tuning gained nothing, "keep" has no meaning, and the floor is the fine-tuned utility minus `slack`. If
no point reaches the floor, the point with the highest utility is taken and the result says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

SLACK = 0.02


@dataclass(frozen=True)
class Candidate:
    """A grid point on one split; harm and utility in [0, 1]. `index` is the caller's own."""

    index: int
    harm: float
    utility: float
    merged: int


@dataclass(frozen=True)
class Choice:
    """The chosen index, the utility floor, and whether any point reached it."""

    index: int
    floor: float
    met: bool


def utility_floor(aligned: float, finetuned: float, keep: float, slack: float = SLACK) -> float:
    """The least utility that a point must have; NaN utilities impose no floor."""
    if math.isnan(finetuned):
        return -math.inf
    if math.isnan(aligned) or finetuned <= aligned:
        return finetuned - slack
    return aligned + keep * (finetuned - aligned)


def choose(
    candidates: Sequence[Candidate],
    aligned: float,
    finetuned: float,
    *,
    keep: float,
    slack: float = SLACK,
) -> Choice:
    """Apply the rule. Points without a harm rate (all verdicts invalid) are never chosen unless there is
    nothing else.
    """
    if not candidates:
        raise ValueError("no candidates to choose from")
    floor = utility_floor(aligned, finetuned, keep, slack)
    pool = [c for c in candidates if not math.isnan(c.harm)] or list(candidates)
    fit = [c for c in pool if c.utility >= floor - 1e-12]
    if fit:
        best = min(fit, key=lambda c: (c.harm, -c.utility, c.merged, c.index))
        return Choice(best.index, floor, True)

    def by_utility(c: Candidate) -> tuple[float, float, int, int]:
        return (math.inf if math.isnan(c.utility) else -c.utility, c.harm, c.merged, c.index)

    return Choice(min(pool, key=by_utility).index, floor, False)


def rule_text(keep: float, slack: float = SLACK) -> str:
    """The rule in one sentence, for reports."""
    return (
        f"lowest harm among the points that keep at least {keep:.0%} of the utility gained by fine-tuning "
        f"(if nothing was gained: at most {100 * slack:g} points below the fine-tuned utility); "
        "ties: higher utility, then fewer modules merged"
    )
