"""The safety subspace of one linear layer, and how much of a LoRA update is in it. Pure tensor functions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Similarity:
    """rho in [0, 1]; Frobenius norms of dW, V and C dW; flags that name a degenerate module."""

    rho: float
    norm_task: float
    norm_v: float
    norm_projected: float
    flags: tuple[str, ...] = ()


_BLOCK = 1 << 21  # elements: small enough for the cache, large enough to start threads for


def difference(aligned: Tensor, base: Tensor, out: Tensor) -> float:
    """Write V = aligned - base (d_out x d_in, any float dtypes) into out (float32) and return ||V||_F.

    Goes block by block so that no float32 copy of either weight is made; on a CPU this is also several times
    faster than converting whole matrices. The result is NaN or infinite if a weight is.
    """
    rows = max(1, _BLOCK // max(1, out.shape[1])) if out.device.type == "cpu" else out.shape[0]
    total = 0.0
    for start in range(0, out.shape[0], rows):
        block = out[start : start + rows]
        block.copy_(aligned[start : start + rows])
        block -= base[start : start + rows].to(out.device).float()
        total += float(torch.linalg.vector_norm(block, dtype=torch.float64)) ** 2
    return math.sqrt(total)


def fold(a: Tensor, b: Tensor) -> Tensor:
    """B' (d_out x k, float64) with B A = B' Q for some Q with orthonormal rows, so that ||B'|| = ||B A||.

    a is r x d_in, b is d_out x r; k = min(r, d_in). Folding A into B first, rather than using the Gram matrix
    A A^T, keeps full accuracy when the columns of B cancel in the product.
    """
    triangle = torch.linalg.qr(a.double().T, mode="r").R  # A = R^T Q^T
    return b.double() @ triangle.T


def similarity(folded: Tensor, v: Tensor, norm_v: float, scaling: float = 1.0) -> Similarity:
    """rho = cos(dW, C dW) with C = V V^T / ||V||_F, without ever building C or dW.

    With dW = s B' Q and Q's rows orthonormal, <dW, V V^T dW> = s^2 ||V^T B'||^2, and the norms of dW and
    V V^T dW are s ||B'|| and s ||V V^T B'||. Scaling out the norms before each product leaves

        rho = ||V^T b|| / ||V p||      with b = B'/||B'||, p = V^T b/||V^T b||

    folded: B' of `fold`, d_out x k, float64. v: d_out x d_in, float32. norm_v: ||V||_F.
    4 d_out d_in k operations; reductions in float64. Cauchy-Schwarz keeps rho in [0, 1].
    """
    norm = float(folded.norm())
    norm_task = abs(scaling) * norm
    flags = ("zero_v",) * (norm_v == 0) + ("zero_update",) * (norm_task == 0)
    if flags:
        return Similarity(0.0, norm_task, norm_v, 0.0, flags)
    first = (folded / norm).to(
        v.dtype
    ).T.contiguous() @ v  # k x d_in; this order is ten times as fast as V^T b on a CPU
    length = norm64(first)
    if length == 0:
        return Similarity(0.0, norm_task, norm_v, 0.0, ("zero_projection",))
    second = v @ (first / length).T  # d_out x k
    reach = norm64(second)
    rho = min(1.0, length / reach) if reach > 0 else 0.0
    return Similarity(rho, norm_task, norm_v, norm_task * length * reach / norm_v)


def project(b: Tensor, v: Tensor, norm_v: float) -> Tensor:
    """C B = V (V^T B) / ||V||_F, SafeLoRA's repair. b: d_out x r, v: d_out x d_in; zero if V = 0."""
    if norm_v == 0:
        return torch.zeros_like(b)
    scale = float(b.abs().max()) or 1.0  # keeps the products inside float32's range
    return (v @ ((b / scale).T.contiguous() @ v).T) * (scale / norm_v)


def norm64(x: Tensor) -> float:
    """||x||_F with a float64 sum."""
    return math.sqrt(float((x.double() ** 2).sum()))
