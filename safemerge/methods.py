"""Every defence as a selection of modules times a repair: what conf/method/*.yaml point at.

Each function turns its knobs into points, one per cell of the grid that lists span. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, TypeVar

from safemerge.errors import UserError
from safemerge.selection import (
    COMBINES,
    PROJECTORS,
    WITH_DENSITY,
    Point,
    Repair,
    Rule,
    Selection,
    Tau,
    check_tau,
    layer_range,
    number_in,
    resolve_tau,
    select,
    show,
)

Value = TypeVar("Value")
TAU, ALPHA, GAMMA, ENERGY = 0.7, 0.8, 0.5, 0.99  # of a single repair; the experiment's grids are in conf/

__all__ = [
    "Point",
    "Repair",
    "Selection",
    "aligned",
    "by_kind",
    "by_layer",
    "finetuned",
    "full",
    "highest_k",
    "null_k",
    "ptst",
    "random_k",
    "ratio_k",
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
    return [
        _point("safemerge", Selection("below", tau=t), _blend(a, combine, density, seed, rank))
        for t, a in product(_each(tau, check_tau), _each(alpha, _alpha))
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
    repairs = (_blend(a, combine, density, seed, rank) for a in _each(alpha, _alpha))
    return [_point("full", Selection("all"), repair) for repair in repairs]


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
        chosen = [Selection("at_most", tau=t) for t in _each(tau, check_tau)]
    elif k is not None:
        chosen = [Selection("lowest_ties", k=n) for n in _each(k, _count)]
    if projector == "official":
        return [_point("safelora", selection, Repair("project")) for selection in chosen]
    shares = _each(ENERGY if energy is None else energy, lambda share: _share("energy", share, "all of V"))
    return [
        _point("safelora_orthogonal", selection, Repair("project", projector=projector, energy=share))
        for selection, share in product(chosen, shares)
    ]


def resta(
    *,
    gamma: float | Sequence[float],
    dare_density: float | None = None,
    seed: int = 0,
    rank: int | None = None,
) -> list[Point]:
    """dW_f + gamma dW_s in every module, dW_f optionally DARE-sparsified first. RESTA-style (Bhardwaj et al. 2024).

    The paper adds a safety vector, aligned minus (aligned fine-tuned on harmful data), whole, to a fine-tuned update of
    which DARE has dropped entries. Here the vector is a safety LoRA, and entries are dropped from the task LoRA's factors
    (dare_density is the share kept of each), which leaves it a LoRA; the paper drops them from the full update.
    """
    density = None if dare_density is None else _share("dare_density", dare_density)
    gammas = _each(gamma, lambda g: number_in("gamma", g, 0, math.inf))
    repairs = (Repair("add", gamma=g, density=density, seed=seed, rank=_rank(rank)) for g in gammas)
    return [_point("resta", Selection("all"), repair) for repair in repairs]


def scale(*, alpha: float | Sequence[float]) -> list[Point]:
    """alpha dW_f in every module: the fine-tuned model merged with the aligned one (Farn et al. 2024)."""
    return [_point("scale", Selection("all"), Repair("scale", alpha=a)) for a in _each(alpha, _alpha)]


def random_k(
    *,
    alpha: float | Sequence[float],
    k: float | Sequence[float] | None = None,
    like: Tau | Sequence[Tau] | None = None,
    seed: int | Sequence[int] = 0,
    combine: str = "exact",
    density: float | None = None,
) -> list[Point]:
    """Control: blend k modules drawn at random, or as many as SafeMERGE takes with tau = `like`."""
    seeds = _each(seed, int)
    return [
        _point("random", Selection("random", s.tau, s.k, n), _blend(a, combine, density, n))
        for s, n, a in product(_counts("random_k", k, like), seeds, _each(alpha, _alpha))
    ]


def highest_k(
    *,
    alpha: float | Sequence[float],
    k: float | Sequence[float] | None = None,
    like: Tau | Sequence[Tau] | None = None,
    combine: str = "exact",
    density: float | None = None,
) -> list[Point]:
    """Control: blend the k modules that moved least away, or as many as SafeMERGE takes with tau = `like`."""
    return _ranked("highest", alpha, k, like, combine, density)


def null_k(
    *,
    alpha: float | Sequence[float],
    k: float | Sequence[float] | None = None,
    like: Tau | Sequence[Tau] | None = None,
    combine: str = "exact",
    density: float | None = None,
) -> list[Point]:
    """Control: blend the k modules whose rho would be lowest if the update knew nothing of V (`safemerge.null`).

    It ranks by V's spectrum and the module's shape, never by the fine-tuning; with `like`, their number is SafeMERGE's.
    """
    return _ranked("null", alpha, k, like, combine, density)


def ratio_k(
    *,
    alpha: float | Sequence[float],
    k: float | Sequence[float] | None = None,
    like: Tau | Sequence[Tau] | None = None,
    combine: str = "exact",
    density: float | None = None,
) -> list[Point]:
    """Control: blend the k modules of lowest rho over its null, the part of rho that is not the module's."""
    return _ranked("ratio", alpha, k, like, combine, density)


def by_kind(
    *, kinds: str | Sequence[str], alpha: float | Sequence[float], combine: str = "exact"
) -> list[Point]:
    """Control: blend all modules of the given kinds, e.g. [q_proj, v_proj], whatever their rho."""
    names = tuple(sorted(_each(kinds, str)))
    return [
        _point("kinds", Selection("kinds", names=names), _blend(a, combine)) for a in _each(alpha, _alpha)
    ]


def by_layer(
    *, layers: str | int | Sequence[str | int], alpha: float | Sequence[float], combine: str = "exact"
) -> list[Point]:
    """Control: blend all modules of the given blocks, e.g. [0, 1, "10-15"], whatever their rho."""
    names = tuple(_each(layers, lambda layer: _layers(str(layer))))
    return [
        _point("layers", Selection("layers", names=names), _blend(a, combine)) for a in _each(alpha, _alpha)
    ]


_RULES: dict[str, Rule] = {"highest": "highest", "null": "lowest_null", "ratio": "lowest_ratio"}


def _ranked(
    method: str, alpha: object, k: object, like: object, combine: str, density: float | None
) -> list[Point]:
    """The controls that take k modules in some order."""
    return [
        _point(method, Selection(_RULES[method], s.tau, s.k), _blend(a, combine, density))
        for s, a in product(_counts(f"{method}_k", k, like), _each(alpha, _alpha))
    ]


def _point(method: str, selection: Selection, repair: Repair) -> Point:
    knobs = {
        "tau": selection.tau,
        "k": selection.k,
        "names": "+".join(selection.names) or None,
        "seed": selection.seed if selection.rule == "random" else None,
        "alpha": repair.alpha,
        "gamma": repair.gamma,
        "combine": None if repair.combine == "exact" else repair.combine,
        "density": repair.density,
        "rank": repair.rank,
        "energy": repair.energy,
    }
    # The seed of a random repair only matters to the label where a repair draws at all.
    if repair.seed and repair.density is not None:
        knobs["draw"] = repair.seed
    words = [f"{name}={show(value)}" for name, value in knobs.items() if value is not None]
    return Point(method, " ".join([method, *words]), "task", selection, repair)


def _blend(
    alpha: float, combine: str, density: float | None = None, seed: int = 0, rank: int | None = None
) -> Repair:
    if combine not in COMBINES:
        raise UserError(f"combine={combine} is unknown; use one of {', '.join(COMBINES)}")
    if combine in WITH_DENSITY:
        if density is None:
            raise UserError(
                f"combine={combine} needs density, the share of weights it keeps; set it in (0, 1]"
            )
        density = _share("density", density)
    elif density is not None:
        raise UserError(f"combine={combine} has no use for density={density}; leave it out")
    return Repair("blend", alpha=alpha, combine=combine, density=density, seed=seed, rank=_rank(rank))


def _each(value: object, check: Callable[[Any], Value]) -> list[Value]:
    """A scalar or a list of them (a ListConfig too), each checked; never empty."""
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not values:
        raise UserError("an empty list of settings selects nothing; give at least one value")
    return [check(item) for item in values]


def _alpha(value: object) -> float:
    return number_in("alpha", value, 0, 1)


def _share(name: str, value: object, of: str = "every weight") -> float:
    number = number_in(name, value, 0, 1)
    if number == 0:
        raise UserError(f"{name}=0 would drop {of}; use a value in (0, 1]")
    return number


def _count(value: object) -> int | float:
    if isinstance(value, int) and not isinstance(value, bool):
        return int(number_in("k", value, 0, math.inf))
    return number_in("k (a fraction, as it is not a whole number)", value, 0, 1)


def _counts(method: str, k: object, like: object) -> list[Selection]:
    if (k is None) == (like is None):
        raise UserError(
            f"{method} needs either k or like (a tau), got k={k} and like={like}; set one of them"
        )
    if like is not None:
        return [Selection(tau=tau) for tau in _each(like, check_tau)]
    return [Selection(k=n) for n in _each(k, _count)]


def _rank(rank: int | None) -> int | None:
    if rank is not None and rank < 1:
        raise UserError(f"rank={rank} must be at least 1, or null for no truncation")
    return rank


def _layers(name: str) -> str:
    layer_range(name)
    return name
