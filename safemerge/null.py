"""The null of rho: what it comes to for an update that knows nothing of V.

Part of rho is the module's shape and V's spectrum. With M = V V^T (eigenvalues l_i: V's squared singular values) and
dW = s B A, B Gaussian and A with r orthonormal rows, rho = N / sqrt(D E) with N = sum l_i x_i, D = sum x_i,
E = sum l_i^2 x_i and x_i independent, chi-square of r degrees of freedom. rho does not depend on ||B||, hence not on D, so
E[rho] = E[N / sqrt(E)] / E[sqrt(D)]; with 1/sqrt(E) = (1/sqrt(pi)) int t^(-1/2) exp(-t E) dt this is, exactly,

    E[rho] = 2 / (sqrt(pi) m) int_0^oo sum_i r l_i / (1 + 2 u^2 l_i^2) prod_i (1 + 2 u^2 l_i^2)^(-r/2) du        (t = u^2)

with m = E[chi of d_out r degrees] = sqrt(2) Gamma((d_out r + 1)/2) / Gamma(d_out r / 2). For r to infinity it is

    sqrt(PR(V) / d_out)    with PR(V) = ||V||_F^4 / ||V V^T||_F^2, the participation ratio of V's spectrum,

which it lies below by about (1/r) (tr M^3 / (tr M tr M^2) - 3/4 tr M^4 / (tr M^2)^2 - 1/(4 d_out)) of itself: by 3 % where
V has rank 1 and r = 8; and above where that is negative, as with one large direction among many small ones. A random A has
no orthonormal rows, only nearly: its Gram matrix G counts as tr(G)^2 / tr(G^2) of them, for a Gaussian one
(r d_in + 2) / (d_in + r + 1) in the mean (Wishart). Derived here; Monte Carlo in tests/unit/test_null.py.

The eigenvalues are not computed: that takes d^3 operations, and ||V V^T||_F^2 alone, 2 d^2 d', is a hundred times what rho
costs in a 4096 x 14336 module. `basis` and `spectrum` estimate them from PROBES seeded probes that ride along in the two
products that rho needs: they find V's leading directions, which are then taken exactly, and each measures what the others
have missed (XTrace, Epperly, Tropp & Webber 2024; their idea, applied to M^2), while ||V||_F^2 is known. Against the exact
formula the null is off by rounding where V has at most PROBES directions, by 0.6 % where V's squared singular values fall
as 1/i^2, by 1.5 % where V is Gaussian, 576 x 576 (less in larger ones), by 4 % where V has 32 directions and, at the worst
tried, by 7 % where they fall as 1/i, 1024 x 2048 (standard deviations over seeds; the bias is 3 % or less).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

# 24 would halve the error, and at rank 16 rho would take up to 2.7 times as long as reading V; the bar is 2.5.
PROBES = 16
_SEED = 0
_NEGLIGIBLE = 1e-6  # of ||V||_F^2: float32's rounding
_GRID = np.exp(np.linspace(-30, 30, 601))  # of u; the integrand is smooth in log u and decays at both ends


@dataclass(frozen=True)
class Spectrum:
    """Squared singular values of V, and how many there are of each: its leading ones, and one level for all others."""

    levels: tuple[float, ...]
    counts: tuple[float, ...]


@lru_cache(maxsize=8)  # a model has few shapes
def probes(d_out: int) -> Tensor:
    """Random signs (PROBES x d_out, float32, on the CPU), the same in every call."""
    generator = torch.Generator().manual_seed(_SEED)
    return torch.randint(0, 2, (PROBES, d_out), generator=generator).float() * 2 - 1


def basis(first: Tensor) -> tuple[Tensor, Tensor]:
    """Q and R of Y = V^T Z = Q R, from Y^T (PROBES x d_in): orthonormal directions in which V is large."""
    found = torch.linalg.qr(first.T)  # in float32, which costs a tenth of float64
    return found.Q, found.R.double()


def spectrum(of_basis: Tensor, r: Tensor, norm_v: float, most: int) -> Spectrum:
    """V's squared singular values, `most` of them, from V Q (d_out x PROBES), R of `basis` and ||V||_F.

    Those of V Q are taken as they are. What ||V V^T||_F^2 has beyond them goes to one level with as much of ||V||_F^2 as
    is left. It is estimated with each probe z in turn, as the mean of z^T (M^2 - M_Q^2) z + ||M_Q||_F^2 with
    M_Q = V Q Q^T V^T and Q spanned by the other probes, which z knows nothing of. M z = V Q R e_z: no further product.
    """
    gram = of_basis.double()
    gram = gram.T @ gram
    leading = torch.linalg.eigvalsh(gram).clamp(min=0).tolist()
    left = norm_v**2 - math.fsum(leading)
    room = most - len(leading)
    if room < 1 or left <= _NEGLIGIBLE * norm_v**2:
        return Spectrum(tuple(leading), (1.0,) * len(leading))
    found = []
    for i in range(r.shape[1]):
        others = torch.linalg.qr(torch.cat([r[:, :i], r[:, i + 1 :]], dim=1)).Q
        whole = r[:, i]
        part = others @ (others.T @ whole)
        within = others.T @ gram @ others
        found.append(float(within.square().sum() + whole @ gram @ whole - part @ gram @ part))
    square = math.fsum(found) / len(found) - math.fsum(level**2 for level in leading)
    square = max(square, left**2 / room)  # Cauchy-Schwarz
    return Spectrum((*leading, square / left), (*(1.0,) * len(leading), left**2 / square))


def of_full(v: Tensor, norm_v: float) -> float:
    """E[rho] of a Gaussian dW without a low rank, from V itself, d_out x d_in, float32; norm_v: ||V||_F, not 0."""
    d_out, d_in = v.shape
    directions, r = basis(probes(d_out).to(v.device) @ v)
    return expected_rho(spectrum(v @ directions.float(), r, norm_v, min(d_out, d_in)), d_out, d_in, None)


def expected_rho(found: Spectrum, d_out: int, d_in: int, rank: int | None) -> float:
    """E[rho] of dW = s B A, B (d_out x rank) and A (rank x d_in) Gaussian: the formula at the top. 0 for V = 0.

    rank None: of a Gaussian dW, d_out x d_in, which is B times d_in orthonormal rows.
    """
    levels, counts = np.array(found.levels), np.array(found.counts)
    size = math.sqrt(float((counts * levels**2).sum()))
    if size == 0:
        return 0.0
    levels = levels / size
    rows = d_in if rank is None else (rank * d_in + 2) / (d_in + rank + 1)
    grown = 1 + 2 * np.outer(_GRID**2, levels**2)
    falling = np.exp(-rows / 2 * (counts * np.log(grown)).sum(1))
    inner = rows * (counts * levels / grown).sum(1) * falling * _GRID  # du = u d(log u)
    freedom = d_out * rows
    length = math.sqrt(2) * math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
    return min(1.0, 2 / math.sqrt(math.pi) * float(np.trapezoid(inner, np.log(_GRID))) / length)
