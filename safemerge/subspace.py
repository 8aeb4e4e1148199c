"""The safety subspace of one linear layer, and how much of a LoRA update is in it. Pure tensor functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from safemerge import null


@dataclass(frozen=True)
class Similarity:
    """rho in [0, 1] and its null; Frobenius norms of dW, V and C dW; flags that name a degenerate module."""

    rho: float
    null: float
    norm_task: float
    norm_v: float
    norm_projected: float
    flags: tuple[str, ...] = ()


_ROWS = 1024  # as many rows in float64 at a time
_NEGLIGIBLE = 1e-10  # of the largest squared singular value: below it is what float32 rounds off
_BLOCK = 1 << 20  # elements, 4 MiB in float32: stays in the cache between uses, worth starting threads for
_MOST_PARTS = 16  # threads that each keep a sum of d_in (k + 16) numbers, which must be little beside V


def difference(aligned: Tensor, base: Tensor, out: Tensor) -> float:
    """Write V = aligned - base (d_out x d_in, any float dtypes) into out (float32) and return ||V||_F.

    The result is NaN or infinite if a weight is.
    """
    # All of V is in memory here: a smaller block beside it.
    blocks = _Blocks(aligned, base, out.device, _BLOCK // 2)
    squares = (_sum_of_squares(blocks.write(rows, out[rows]), blocks.spare) for rows in blocks.rows)
    return math.sqrt(sum(squares))


class _Blocks:
    """V = aligned - base, some rows at a time: on a CPU as many as stay in its cache, elsewhere all.

    What a block needs beside itself is a second buffer, made once. A temporary of its size for every block is new memory
    wherever the C library gives large blocks back, and its page faults then add up to a half to the time of rho.
    """

    def __init__(self, aligned: Tensor, base: Tensor, device: torch.device, size: int) -> None:
        self.aligned, self.base, self.device = aligned, base, device
        d_out, self.d_in = aligned.shape
        self.threads, count = 1, d_out
        if device.type == "cpu":
            self.threads = min(torch.get_num_threads(), _MOST_PARTS)
            count = size // max(1, self.d_in) // self.threads * self.threads  # as many rows for each of them
        count = max(self.threads, count)
        self.most = min(count, d_out)
        self.rows = [slice(start, min(start + count, d_out)) for start in range(0, d_out, count)]
        self.spare = self.buffer() if device.type == "cpu" else None  # a GPU's memory is kept by torch

    def buffer(self) -> Tensor:
        """Memory for the largest block."""
        return torch.empty(self.most, self.d_in, device=self.device)

    def write(self, rows: slice, out: Tensor) -> Tensor:
        """Some rows of V in out (float32, at least as many), of which the view of just these is returned."""
        out = out[: rows.stop - rows.start]
        out.copy_(self.aligned[rows])
        base = self.base[rows].to(self.device)
        if self.spare is not None and base.dtype != out.dtype:
            base = self.spare[: len(out)].copy_(base)
        out -= base  # done in float32: it is the wider dtype
        return out


def _sum_of_squares(block: Tensor, spare: Tensor | None) -> float:
    """The sum of squares of a block of V, NaN or infinite if an element is; spare, if there is one, is overwritten.

    torch sums float32 in cascades, which is right to 1e-7, and three to ten times as fast as in float64 (a dot
    product or a float32 norm is not: 1e-5). Where squares may have left float32's range, or the block is zero or
    not finite, float64 decides.
    """
    out = None if spare is None else spare[: len(block)]
    quick = float(torch.square(block, out=out).sum())
    if 1e-24 < quick < math.inf:
        return quick
    return float(torch.linalg.vector_norm(block, dtype=torch.float64)) ** 2


def fold(a: Tensor, b: Tensor) -> Tensor:
    """B' (d_out x k, float64) with B A = B' Q for some Q with orthonormal rows, so that ||B'|| = ||B A||.

    a is r x d_in, b is d_out x r; k = min(r, d_in). Folding A into B first, rather than using the Gram matrix
    A A^T, keeps full accuracy when the columns of B cancel in the product.
    """
    triangle = torch.linalg.qr(a.double().T, mode="r").R  # A = R^T Q^T
    return b.double() @ triangle.T


def similarity(folded: Tensor, aligned: Tensor, base: Tensor, scaling: float = 1.0) -> Similarity:
    """rho = cos(dW, C dW) with C = V V^T / ||V||_F and V = aligned - base, without ever building C, dW or V.

    With dW = s B' Q and Q's rows orthonormal, <dW, V V^T dW> = s^2 ||V^T B'||^2, and the norms of dW and
    V V^T dW are s ||B'|| and s ||V V^T B'||. Scaling out the norms before each product leaves

        rho = ||V^T b|| / ||V p||      with b = B'/||B'||, p = V^T b/||V^T b||

    folded: B' of `fold`, d_out x k, float64, on the device to compute on. aligned, base: d_out x d_in, any
    float dtypes. 4 d_out d_in (k + 16) operations in float32; reductions in float64. Cauchy-Schwarz keeps rho in
    [0, 1]. ||V|| is NaN or infinite if a weight is, and rho then NaN. The further 16 are the probes of rho's null
    (`safemerge.null`).

    On a CPU, a block of rows of V is made and used at once for everything that needs it, while it is in the
    cache. Making each block a second time for V p takes less time than writing V to memory and reading it.
    Each thread multiplies the rows that it has made: where two cores share no cache, as on many servers, a block
    that both read takes twice as long to write again.
    """
    (d_out, k), d_in, device = folded.shape, aligned.shape[1], folded.device
    norm = float(folded.norm())
    norm_task = abs(scaling) * norm
    left = (folded / (norm or 1.0)).float().T
    left = torch.cat([left, null.probes(d_out).to(device)])  # ten times as fast on the left as V^T on a CPU
    blocks = _Blocks(aligned, base, device, _BLOCK)
    scratch = blocks.buffer()
    parts = torch.zeros(blocks.threads, len(left), d_in, device=device)  # of (V^T [b Z])^T
    squares = 0.0
    for rows in blocks.rows:
        block = blocks.write(rows, scratch)
        squares += _sum_of_squares(block, blocks.spare)
        n = blocks.threads if len(block) % blocks.threads == 0 else 1
        parts[:n].baddbmm_(left[:, rows].unflatten(1, (n, -1)).transpose(0, 1), block.unflatten(0, (n, -1)))
    first = parts.sum(0)
    norm_v = math.sqrt(squares)
    if not math.isfinite(norm_v):
        return Similarity(math.nan, math.nan, norm_task, norm_v, math.nan)
    flags = ("zero_v",) * (norm_v == 0) + ("zero_update",) * (norm_task == 0)
    if norm_v == 0:
        return Similarity(0.0, 0.0, norm_task, norm_v, 0.0, flags)
    length = norm64(first[:k])
    basis, r = null.basis(first[k:])
    right = torch.cat([(first[:k] / (length or 1.0)).T, basis], dim=1)
    second = torch.empty(d_out, right.shape[1], device=device)  # V [p Q]
    torch.mm(block, right, out=second[rows])  # the last block is still there; on a GPU it is all of V
    for rows in reversed(blocks.rows[:-1]):
        torch.mm(blocks.write(rows, scratch), right, out=second[rows])
    levels = null.spectrum(second[:, k:], r, norm_v, min(d_out, d_in))
    expected = null.expected_rho(levels, d_out, d_in, k)
    if flags or length == 0:
        return Similarity(0.0, expected, norm_task, norm_v, 0.0, flags or ("zero_projection",))
    reach = norm64(second[:, :k])
    rho = min(1.0, length / reach) if reach > 0 else 0.0
    return Similarity(rho, expected, norm_task, norm_v, norm_task * length * reach / norm_v)


def project(b: Tensor, v: Tensor, norm_v: float) -> Tensor:
    """C B = V (V^T B) / ||V||_F, SafeLoRA's repair. b: d_out x r, v: d_out x d_in; b itself if V = 0.

    C is no projector: it multiplies each left singular direction of V by its squared singular value over ||V||_F, which
    grows with V itself and lies far below 1 where alignment moved the weights by little. Where it did not move them at
    all, the official code's C is 0/0, and no comparison with a NaN selects the module.
    """
    if norm_v == 0:
        return b
    scale = float(b.abs().max()) or 1.0  # keeps the products inside float32's range
    return (v @ ((b / scale).T.contiguous() @ v).T) * (scale / norm_v)


def project_orthogonal(b: Tensor, v: Tensor, energy: float = 1.0) -> Tensor:
    """P B of `orthogonal_projector`; b: d_out x r, float32."""
    return orthogonal_projector(v, energy)(b)


def orthogonal_projector(v: Tensor, energy: float = 1.0) -> Callable[[Tensor], Tensor]:
    """B -> P B with P = U U^T, U the leading left singular directions of V that hold `energy` of ||V||_F^2.

    B: d_out x r, v: d_out x d_in, both float32; energy in (0, 1]. B itself if V = 0. energy = 1 is the projector onto
    all of V's column space: the identity where V has the rank d_out, as it has for most pairs of real checkpoints, if
    only by their rounding to 16 bits. There only a share below 1 repairs anything.

    U comes from the eigenvectors of V's Gram matrix on its smaller side, in float64: V V^T (d_out x d_out) gives U
    itself; V^T V = W S^2 W^T (d_in x d_in) gives U = V W S^-1, hence P B = V W S^-2 W^T V^T B.
    """
    tall = v.shape[0] > v.shape[1]
    gram = _gram(v if tall else v.T)
    squares, vectors = (found.flip(-1) for found in torch.linalg.eigh(gram))  # the largest first
    reached = squares.clamp(min=0).cumsum(0)
    if float(reached[-1]) == 0:
        return lambda b: b
    rank = int((squares > _NEGLIGIBLE * squares[0]).sum())
    kept = min(rank, 1 + int((reached < energy * reached[-1]).sum()))
    squares, vectors = squares[:kept, None], vectors[:, :kept]

    def onto_vectors(b: Tensor) -> Tensor:
        return (vectors @ (vectors.T @ b.double())).to(b.dtype)

    def through_v(b: Tensor) -> Tensor:
        parts = list(zip(v.split(_ROWS), b.split(_ROWS), strict=True))
        inner = torch.stack([part.double().T @ of_b.double() for part, of_b in parts]).sum(0)
        outer = vectors @ (vectors.T @ inner / squares)
        return torch.cat([part.double() @ outer for part, _ in parts]).to(b.dtype)

    return through_v if tall else onto_vectors


def _gram(tall: Tensor) -> Tensor:
    """M^T M (n x n, float64) of M, m x n, a block of rows at a time: M itself stays in float32."""
    gram = torch.zeros(tall.shape[1], tall.shape[1], dtype=torch.float64, device=tall.device)
    for rows in tall.split(_ROWS):
        wide = rows.double()
        gram.addmm_(wide.T, wide)
    return gram


def norm64(x: Tensor) -> float:
    """||x||_F with a float64 sum."""
    return math.sqrt(float((x.double() ** 2).sum()))
