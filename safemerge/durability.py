"""Does a repair last? The adapter is fine-tuned a second time, on harmless data, after the repair. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from safemerge.errors import UserError
from safemerge.methods import finetuned, safemerge
from safemerge.points import each
from safemerge.selection import Again, Point, Tau, number_in

__all__ = ["finetuned_again", "safemerge_again", "safemerge_renewed"]


def finetuned_again(
    *, dataset: str, limit: int | None = None, learning_rate: float | None = None, epochs: float | None = None
) -> list[Point]:
    """The unrepaired twin: the task adapter, fine-tuned a second time on the same rows as the repaired one."""
    return _again("finetuned_again", finetuned(), Again(dataset, limit, learning_rate, epochs))


def safemerge_again(
    *,
    tau: Tau | Sequence[Tau],
    alpha: float | Sequence[float],
    dataset: str,
    combine: str = "exact",
    limit: int | None = None,
    learning_rate: float | None = None,
    epochs: float | None = None,
) -> list[Point]:
    """SafeMERGE, then a second fine-tuning of the repaired adapter."""
    points = safemerge(tau=tau, alpha=alpha, combine=combine)
    return _again("safemerge_again", points, Again(dataset, limit, learning_rate, epochs))


def safemerge_renewed(
    *,
    tau: Tau | Sequence[Tau],
    alpha: float | Sequence[float],
    dataset: str,
    combine: str = "exact",
    limit: int | None = None,
    learning_rate: float | None = None,
    epochs: float | None = None,
) -> list[Point]:
    """SafeMERGE, a second fine-tuning, and the safety LoRA once more: the same blend of the same modules."""
    points = safemerge(tau=tau, alpha=alpha, combine=combine)
    return _again("safemerge_renewed", points, Again(dataset, limit, learning_rate, epochs, renewed=True))


def _again(name: str, points: list[Point], again: Again) -> list[Point]:
    if not again.dataset:
        raise UserError(f"{name}: dataset is empty; name the data set of the second fine-tuning")
    if again.limit is not None and again.limit < 1:
        raise UserError(
            f"{name}: limit={again.limit} leaves no row to train on; give at least 1, or null for all"
        )
    for knob in ("learning_rate", "epochs"):
        if (value := getattr(again, knob)) is not None:
            each(value, lambda its, knob=knob: number_in(f"{name}: {knob}", its, 0, float("inf")))  # type: ignore[misc]
    words = [f"on={again.dataset}", *([f"rows={again.limit}"] if again.limit else [])]
    words += [f"lr={again.learning_rate:g}"] if again.learning_rate is not None else []
    words += [f"epochs={again.epochs:g}"] if again.epochs is not None else []
    first = points[0].method
    return [
        replace(
            point, method=name, label=" ".join([point.label.replace(first, name, 1), *words]), again=again
        )
        for point in points
    ]
