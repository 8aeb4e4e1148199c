"""What a merge of two LoRAs amounts to: how much of either update is in it, and how much is neither.

PEFT's `linear` weights A and B apart, so its result holds cross terms. Where the two adapters' A are alike, as those of one
training seed stay, these point along the updates themselves and add to their weights.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import astuple

import torch
from torch import Tensor

from safemerge.arithmetic import Factors
from safemerge.changes import Effective


def _inner(left: Factors, right: Factors) -> float:
    """The Frobenius inner product of two updates b @ a, without building them."""
    (a, b), (c, d) = left, right
    return float(((b.double().T @ d.double()) * (a.double() @ c.double().T)).sum())


def effective_weights(merged: Factors, task: Factors, safety: Factors) -> Effective:
    """The least-squares weights of dW_f and dW_s in a merged update; all three as (a, b) with their scaling in b.

    a: r x d_in, b: d_out x r, ranks may differ. NaN where the two updates are parallel or zero.
    """
    gram = torch.tensor([[_inner(x, y) for y in (task, safety)] for x in (task, safety)], dtype=torch.float64)
    target = torch.tensor([_inner(task, merged), _inner(safety, merged)], dtype=torch.float64)
    cosine = _cosine(task[0], safety[0])
    scale = float(gram.diagonal().prod())
    if scale == 0 or float(torch.linalg.det(gram)) < 1e-12 * scale:
        return Effective(math.nan, math.nan, math.nan, cosine)
    weights = torch.linalg.solve(gram, target)
    whole = _inner(merged, merged)
    rest = max(0.0, whole - float(weights @ target))
    share = math.sqrt(rest / whole) if whole > 0 else math.nan
    return Effective(float(weights[0]), float(weights[1]), share, cosine)


def middle(found: Sequence[Effective]) -> Effective:
    """The median of each number over the modules that have it; NaN where none has."""

    def median(values: Sequence[float]) -> float:
        known = [value for value in values if not math.isnan(value)]
        return statistics.median(known) if known else math.nan

    return Effective(*(median(column) for column in zip(*map(astuple, found), strict=True)))


def _cosine(left: Tensor, right: Tensor) -> float:
    """Of two matrices as vectors; NaN for other shapes or a zero."""
    norms = float(left.double().norm() * right.double().norm())
    if left.shape != right.shape or norms == 0:
        return math.nan
    return float((left.double() * right.double()).sum()) / norms
