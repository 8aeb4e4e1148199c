"""What a repair did to an adapter or a model, as callers, model cards and stores are told. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Effective:
    """merged = task dW_f + safety dW_s + rest, by least squares; `rest` is ||rest|| / ||merged||.

    cosine_a: of the two A matrices, as vectors.
    """

    task: float
    safety: float
    rest: float
    cosine_a: float


@dataclass
class Changes:
    """What was repaired, and what was measured on the way; None where there was nothing of the kind.

    modules: how many there are; selected: the names of those repaired. rank: of every module of the written adapter, None
    for a model. svd_error: of a truncation, the largest relative error, and its mean. shrink: ||projected dW|| / ||dW||,
    the median of the projected modules. rounding: of a model, ||rounding to its dtype|| / ||repaired dW||, the median.
    effective: of a blend that is not exact, medians. notes: what a reader should know.
    """

    modules: int
    selected: list[str] = field(default_factory=list)
    rank: int | None = None
    svd_error: float | None = None
    svd_error_mean: float | None = None
    shrink: float | None = None
    rounding: float | None = None
    effective: Effective | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def merged_modules(self) -> int:
        return len(self.selected)
