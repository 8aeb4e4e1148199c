"""Every defence as a selection of modules times a repair: what conf/method/*.yaml point at.

Each function turns its knobs into points, one per cell of the grid that lists span. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

from safemerge.errors import UserError
from safemerge.points import alpha_in, blend, count, drawing, each, point_of, rank_in, share
from safemerge.selection import (
    DRAWING,
    PROJECTORS,
    Point,
    Repair,
    Selection,
    Tau,
    check_tau,
    number_in,
    resolve_tau,
    select,
)

TAU, ALPHA, GAMMA, ENERGY = 0.7, 0.8, 0.5, 0.99  # of a single repair; the experiment's grids are in conf/

__all__ = [
    "Point",
    "Repair",
    "Selection",
    "aligned",
    "finetuned",
    "full",
    "ptst",
    "resolve_tau",
    "resta",
    "safeinstruct",
    "safelora",
    "safemerge",
    "scale",
    "select",
]


def aligned() -> list[Point]:
    """The aligned model as it is, without an adapter."""
    return [Point("aligned", "aligned", "none")]


def finetuned() -> list[Point]:
    """The task adapter, unrepaired."""
    return [Point("finetuned", "finetuned")]


def safeinstruct() -> list[Point]:
    """Safety samples mixed into the task data while training; nothing to merge (Bianchi et al. 2024)."""
    return [Point("safeinstruct", "safeinstruct", "safeinstruct")]


def ptst(*, system_prompt: str) -> list[Point]:
    """The task adapter, unrepaired, asked with a safety prompt that it was not trained with (Lyu et al. 2024,
    arXiv 2402.18540: pure tuning, safe testing)."""
    if not system_prompt.strip():
        raise UserError("ptst: system_prompt is empty; give the safety prompt that the model is asked with")
    return [Point("ptst", "ptst", system_prompt=system_prompt)]


def safemerge(
    *,
    tau: Tau | Sequence[Tau],
    alpha: float | Sequence[float],
    combine: str = "exact",
    density: float | None = None,
    seed: int = 0,
    rank: int | None = None,
) -> list[Point]:
    """Blend the modules with rho < tau: alpha dW_f + (1 - alpha) dW_s. A tau x alpha grid, tau slowest."""
    drawing(seed, combine in DRAWING, f"combine={combine}")
    return [
        point_of("safemerge", Selection("below", tau=t), blend(a, combine, density, seed, rank))
        for t, a in product(each(tau, check_tau), each(alpha, alpha_in))
    ]


def full(
    *,
    alpha: float | Sequence[float],
    combine: str = "exact",
    density: float | None = None,
    seed: int = 0,
    rank: int | None = None,
) -> list[Point]:
    """Blend every module: SafeMERGE with tau = infinity."""
    drawing(seed, combine in DRAWING, f"combine={combine}")
    repairs = (blend(a, combine, density, seed, rank) for a in each(alpha, alpha_in))
    return [point_of("full", Selection("all"), repair) for repair in repairs]


def safelora(
    *,
    tau: Tau | Sequence[Tau] | None = None,
    k: float | Sequence[float] | None = None,
    projector: str = "official",
    energy: float | Sequence[float] | None = None,
) -> list[Point]:
    """Project the modules with rho <= tau, or the k lowest and what ties with them (SafeLoRA, Hsu et al. 2024).

    projector `official` is the authors' B <- C B with C = V V^T / ||V||_F, which is no projector: it rescales the
    update, on the default pair to a hundredth. `orthogonal`, ours and a method of its own, is B <- P B with P the
    projector onto the leading left singular directions of V that hold `energy` of ||V||_F^2. Both select by the official
    code's rules, see `Selection`; its defaults are k = 10, and tau = 0.5 where a threshold is asked for.
    """
    if (tau is None) == (k is None):
        raise UserError(f"safelora needs either tau or k, got tau={tau} and k={k}; set one of them")
    if projector not in PROJECTORS:
        raise UserError(f"projector={projector} is unknown; use one of {', '.join(PROJECTORS)}")
    if projector == "official" and energy is not None:
        raise UserError(f"projector=official has no use for energy={energy}; leave it out")
    chosen: list[Selection] = []
    if tau is not None:
        chosen = [Selection("at_most", tau=t) for t in each(tau, check_tau)]
    elif k is not None:
        chosen = [Selection("lowest_ties", k=n) for n in each(k, count)]
    if projector == "official":
        return [point_of("safelora", selection, Repair("project")) for selection in chosen]
    shares = each(ENERGY if energy is None else energy, lambda value: share("energy", value, "all of V"))
    return [
        point_of("safelora_orthogonal", selection, Repair("project", projector=projector, energy=kept))
        for selection, kept in product(chosen, shares)
    ]


def resta(
    *,
    gamma: float | Sequence[float],
    dare_density: float | None = None,
    seed: int = 0,
    rank: int | None = None,
    tau: Tau | Sequence[Tau] | None = None,
) -> list[Point]:
    """dW_f + gamma dW_s in every module, dW_f optionally DARE-sparsified first. RESTA-style (Bhardwaj et al. 2024).

    With tau, only in the modules with rho < tau: SafeMERGE's selection with RESTA's repair, in no paper.

    The paper adds a safety vector, aligned minus (aligned fine-tuned on harmful data), whole, to a fine-tuned update of
    which DARE has dropped entries. Here the vector is a safety LoRA, and entries are dropped from the task LoRA's factors
    (dare_density is the share kept of each), which leaves it a LoRA; the paper drops them from the full update.
    """
    density = None if dare_density is None else share("dare_density", dare_density)
    drawing(seed, density is not None, "dare_density is not set")
    gammas = each(gamma, lambda g: number_in("gamma", g, 0, math.inf))
    chosen = [Selection("all")] if tau is None else [Selection("below", tau=t) for t in each(tau, check_tau)]
    repairs = [Repair("add", gamma=g, density=density, seed=seed, rank=rank_in(rank)) for g in gammas]
    return [point_of("resta", selection, repair) for selection, repair in product(chosen, repairs)]


def scale(*, alpha: float | Sequence[float]) -> list[Point]:
    """alpha dW_f in every module: the fine-tuned model merged with the aligned one (Farn et al. 2024)."""
    return [point_of("scale", Selection("all"), Repair("scale", alpha=a)) for a in each(alpha, alpha_in)]
