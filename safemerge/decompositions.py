"""Controls that take the released merge apart: is it its weights, its cross terms, or its rank? Imports no torch.

PEFT's `linear` at weights .8/.2 differs from the exact blend in three ways. It amounts to other weights (about 1.1 and 0.45
where the LoRAs share a seed), it holds cross terms that are neither update, and it has rank r instead of 2r. Each control
here changes one of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from safemerge.methods import safemerge
from safemerge.selection import Point, Repair, Selection, Tau, check_tau, number_in, show

__all__ = ["apart", "truncated", "weighted"]


def weighted(*, tau: Tau, task_weight: float, safety_weight: float) -> list[Point]:
    """Exact blend of the modules with rho < tau at any two weights: w_f dW_f + w_s dW_s, without cross terms."""
    ours, theirs = (
        number_in(name, value, 0, math.inf)
        for name, value in (("task_weight", task_weight), ("safety_weight", safety_weight))
    )
    repair = Repair("blend", alpha=ours, safety_weight=theirs)
    label = f"weighted tau={show(tau)} weights={show(ours)}+{show(theirs)}"
    return [Point("weighted", label, "task", Selection("below", tau=check_tau(tau)), repair)]


def truncated(*, tau: Tau, alpha: float, rank: int) -> list[Point]:
    """SafeMERGE's exact blend, cut by SVD to the rank that the released merge has."""
    return _named("truncated", safemerge(tau=tau, alpha=alpha, rank=rank))


def apart(*, tau: Tau | Sequence[Tau], alpha: float, combine: str) -> list[Point]:
    """SafeMERGE with a safety LoRA of another seed than the task's: the two A are unlike, and the cross terms noise."""
    points = _named("apart", safemerge(tau=tau, alpha=alpha, combine=combine))
    return [replace(point, safety="safety_apart") for point in points]


def _named(name: str, points: list[Point]) -> list[Point]:
    """The same points as a method of their own."""
    return [replace(p, method=name, label=p.label.replace("safemerge", name, 1)) for p in points]
