"""How much of a full update is in the safety subspace of one linear layer, and its projections. Pure tensor functions.

What `safemerge.subspace` does for a LoRA's factors, for a dW = W_task - W_aligned (d_out x d_in) that has no low rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from safemerge import null, subspace
from safemerge.subspace import Similarity

_BLOCK = 512  # rows or columns of a product at a time: the matrix units are busy, and the block is small
_SHARE = 8  # of a module, at most: for one that is smaller than that
_WIDE = 1 << 20  # elements in float64 at a time, 8 MiB; of a smaller matrix as above

Place = tuple[slice, slice]


def similarity(update: Tensor, norm_task: float, v: Tensor, norm_v: float) -> Similarity:
    """rho = cos(dW, C dW) with C = V V^T / ||V||_F, exactly, without ever building C (SafeMERGE, Djuhera et al. 2025).

    update, v: dW and V, d_out x d_in, float32, on the device to compute on; norm_task, norm_v: their Frobenius norms, as
    `subspace.difference` returns them. 4 d_out d_in min(d_out, d_in) operations in float32, reductions in float64; beside
    the two inputs, three blocks of an eighth of the module or less. NaN where a norm is.
    """
    if not (math.isfinite(norm_task) and math.isfinite(norm_v)):
        return Similarity(math.nan, math.nan, norm_task, norm_v, math.nan)
    flags = ("zero_v",) * (norm_v == 0) + ("zero_update",) * (norm_task == 0)
    expected = 0.0 if norm_v == 0 else null.of_full(v, norm_v)
    if flags:
        return Similarity(0.0, expected, norm_task, norm_v, 0.0, flags)
    inner = squares = 0.0
    for _, block, of_block in _through(update, norm_task, v, norm_v):
        inner += of_block
        squares += dot64(block, block)
    reach = math.sqrt(squares)
    if inner <= 0 or reach == 0:  # a scalar product with V V^T is not negative, but for rounding
        return Similarity(0.0, expected, norm_task, norm_v, 0.0, ("zero_projection",))
    return Similarity(min(1.0, inner / reach), expected, norm_task, norm_v, norm_task * norm_v * reach)


def project(update: Tensor, norm_task: float, v: Tensor, norm_v: float) -> Tensor:
    """C dW = V V^T dW / ||V||_F, SafeLoRA's repair on a full update: see `subspace.project`. d_out x d_in, float32.

    Both norms as in `similarity`; dW itself if either is 0.
    """
    if norm_v == 0 or norm_task == 0:
        return update
    out = torch.empty_like(update)
    for place, block, _ in _through(update, norm_task, v, norm_v):
        out[place] = block.mul_(norm_v).mul_(norm_task)
    return out


def project_orthogonal(update: Tensor, v: Tensor, energy: float = 1.0) -> Tensor:
    """P dW, P the orthogonal projector onto V's leading left singular directions: see `subspace.orthogonal_projector`.

    d_out x d_in, float32; written over `update`, which is returned. Decomposes V's Gram matrix in float64, which on a
    square module takes several times the memory of either matrix.
    """
    apply = subspace.orthogonal_projector(v, energy)
    for columns in _slices(update.shape[1]):
        update[:, columns] = apply(update[:, columns])
    return update


def _through(
    update: Tensor, norm_task: float, v: Tensor, norm_v: float
) -> Iterator[tuple[Place, Tensor, float]]:
    """(place, block, inner) of all of N N^T U, with U = dW/||dW|| and N = V/||V||, and the inner product of U with each.

    By blocks of columns as N (N^T U), where d_in is the smaller side: N^T U is d_in x d_in. Otherwise by blocks of rows
    of N N^T, which is d_out x d_out. Either way the cheaper association, and neither matrix is ever there as a whole.
    Norms are divided out between the products, so that these stay inside float32's range.
    """
    d_out, d_in = update.shape
    if d_out >= d_in:
        for columns in _slices(d_in):
            inside = v.T @ (update[:, columns] / norm_task)
            inside /= norm_v
            yield (slice(None), columns), (v @ inside).div_(norm_v), dot64(inside, inside)
        return
    for rows in _slices(d_out):
        of_v = (v[rows] / norm_v) @ v.T
        of_v /= norm_v
        block = (of_v @ update).div_(norm_task)
        yield (rows, slice(None)), block, dot64(block, update[rows]) / norm_task


def _slices(size: int) -> list[slice]:
    step = min(_BLOCK, math.ceil(size / _SHARE))
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]


def dot64(left: Tensor, right: Tensor) -> float:
    """The Frobenius inner product of two matrices with a float64 sum, some rows in float64 at a time."""
    rows = max(1, min(_WIDE // max(1, left.shape[1]), math.ceil(left.shape[0] / _SHARE)))
    pairs = zip(left.split(rows), right.split(rows), strict=True)
    return float(torch.stack([(x.double() * y.double()).sum() for x, y in pairs]).sum())
