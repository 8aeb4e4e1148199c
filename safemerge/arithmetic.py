"""Repairs of one LoRA module, as pure functions of its factors.

The LoRA scaling is already in b: dW = b @ a, a: r x d_in, b: d_out x r. What is computed with is float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from safemerge.errors import UserError

Factors = tuple[Tensor, Tensor]  # (a, b)


def blend(task: Factors, safety: Factors, alpha: float, other: float | None = None) -> Factors:
    """alpha dW_f + (1 - alpha) dW_s, SafeMERGE's merge step, exactly; rank r_f + r_s.

    a = [a_f; a_s], b = [alpha b_f, (1 - alpha) b_s]. alpha = 1 and alpha = 0 give either adapter back at its
    own rank. other: the weight of dW_s, where it is not 1 - alpha.
    """
    other = 1 - alpha if other is None else other
    if (alpha, other) == (1, 0):
        return task
    if (alpha, other) == (0, 1):
        return safety
    return torch.cat([task[0], safety[0]]), torch.cat([alpha * task[1], other * safety[1]], dim=1)


def add(task: Factors, safety: Factors, gamma: float) -> Factors:
    """dW_f + gamma dW_s, exactly; rank r_f + r_s. RESTA's addition of a safety vector (Bhardwaj et al. 2024)."""
    if gamma == 0:
        return task
    return torch.cat([task[0], safety[0]]), torch.cat([task[1], gamma * safety[1]], dim=1)


def scale(task: Factors, alpha: float) -> Factors:
    """alpha dW_f. Pre/post merging with the aligned model (Farn et al. 2024)."""
    return task[0], alpha * task[1]


def dare(factors: Factors, density: float, generator: torch.Generator) -> Factors:
    """Drop entries of a, then of b, at random; rescale by 1/density, so that b @ a keeps its mean (DARE)."""
    a, b = factors
    return drop(a, density, generator), drop(b, density, generator)


def truncate(factors: Factors, rank: int) -> tuple[Factors, float]:
    """The best approximation of b @ a of that rank, and its relative error; SVD of an r x r core."""
    a, b = factors
    if a.shape[0] <= rank:
        return factors, 0.0
    left, core_b = torch.linalg.qr(b.double())
    right, core_a = torch.linalg.qr(a.double().T)
    u, s, vh = torch.linalg.svd(core_b @ core_a.T)
    total = float(s.norm())
    error = float(s[rank:].norm()) / total if total > 0 else 0.0
    root = s[:rank].sqrt()  # split evenly, so that half precision serves both factors
    return (
        (root[:, None] * (vh[:rank] @ right.T)).to(a.dtype),
        (left @ u[:, :rank] * root).to(b.dtype),
    ), error


def peft_blend(
    combine: str,
    task: Factors,
    safety: Factors,
    scalings: tuple[float, float],
    alpha: float,
    density: float | None,
    generator: torch.Generator,
) -> Factors:
    """PEFT's add_weighted_adapter([task, safety], [alpha, 1 - alpha]): a and b are merged *separately*.

    Each factor is weighted by sqrt(weight * scaling), so the product has cross terms b_f a_s and b_s a_f; the
    official SafeMERGE code does this. Factors are unscaled here. combine: peft_linear | dare_linear | ties |
    dare_ties. The ranks must be equal. Draws in PEFT's order: a of task, of safety, then b of both.
    """
    if task[0].shape[0] != safety[0].shape[0]:
        raise UserError(
            f"combine={combine} needs equal ranks, but task has {task[0].shape[0]} and "
            f"safety {safety[0].shape[0]}; use combine=exact"
        )
    weights = [w * s for w, s in zip((alpha, 1 - alpha), scalings, strict=True)]
    roots = torch.tensor([math.sqrt(abs(w)) for w in weights])
    signed = torch.tensor([math.sqrt(abs(w)) * (1 if w >= 0 else -1) for w in weights])
    merged_a = _merge(combine, [task[0], safety[0]], signed, density, generator)
    return merged_a, _merge(combine, [task[1], safety[1]], roots, density, generator)


def _merge(
    combine: str, tensors: list[Tensor], weights: Tensor, density: float | None, generator: torch.Generator
) -> Tensor:
    if combine != "peft_linear":
        assert density is not None  # checked when the method is built
        if combine.startswith("dare"):
            tensors = [drop(tensor, density, generator) for tensor in tensors]
        else:
            tensors = [_keep_largest(tensor, density) for tensor in tensors]
    stack = torch.stack(tensors)
    weighted = stack * weights[:, None, None]
    if not combine.endswith("ties"):
        return weighted.sum(dim=0)
    return _elect_sign(stack, weighted)


def drop(tensor: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """DARE's step on one matrix: keep each entry with that probability, rescaled by its inverse (Yu et al. 2024)."""
    if density >= 1:
        return tensor
    keep = torch.bernoulli(torch.full_like(tensor, density), generator=generator)
    return tensor * keep / density


def _keep_largest(tensor: Tensor, density: float) -> Tensor:
    if density >= 1:
        return tensor
    kept = torch.topk(tensor.abs().flatten(), int(density * tensor.numel())).indices
    mask = torch.zeros(tensor.numel(), dtype=tensor.dtype)
    mask[kept] = 1
    return tensor * mask.view_as(tensor)


def _elect_sign(stack: Tensor, weighted: Tensor) -> Tensor:
    """TIES: average, per entry, the tensors whose sign is that of the unweighted sum (zero counts as +)."""
    majority = torch.where(stack.sum(dim=0) >= 0, 1, -1)
    agrees = stack.sign() == majority
    return (weighted * agrees).sum(dim=0) / agrees.sum(dim=0).clamp(min=1.0)
