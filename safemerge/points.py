"""What the functions of `safemerge.methods` and `safemerge.controls` make points of: settings checked, lists spread."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from safemerge.errors import UserError
from safemerge.selection import (
    COMBINES,
    WITH_DENSITY,
    Point,
    Repair,
    Selection,
    check_tau,
    layer_range,
    number_in,
    show,
)

Value = TypeVar("Value")


def point_of(method: str, selection: Selection, repair: Repair) -> Point:
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


def blend(
    alpha: float, combine: str, density: float | None = None, seed: int = 0, rank: int | None = None
) -> Repair:
    if combine not in COMBINES:
        raise UserError(f"combine={combine} is unknown; use one of {', '.join(COMBINES)}")
    if combine in WITH_DENSITY:
        if density is None:
            raise UserError(
                f"combine={combine} needs density, the share of weights it keeps; set it in (0, 1]"
            )
        density = share("density", density)
    elif density is not None:
        raise UserError(f"combine={combine} has no use for density={density}; leave it out")
    return Repair("blend", alpha=alpha, combine=combine, density=density, seed=seed, rank=rank_in(rank))


def each(value: object, check: Callable[[Any], Value]) -> list[Value]:
    """A scalar or a list of them (a ListConfig too), each checked; never empty, none twice."""
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not values:
        raise UserError("an empty list of settings selects nothing; give at least one value")
    checked = [check(item) for item in values]
    if twice := [item for i, item in enumerate(checked) if item in checked[:i]]:
        listed = ", ".join(map(show, values))
        raise UserError(f"[{listed}] has {show(twice[0])} twice; leave one out")
    return checked


def drawing(seed: int, draws: bool, why: str) -> int:
    """The seed of a repair.

    Raises:
        UserError: it is set where the repair draws nothing at random.
    """
    if seed and not draws:
        raise UserError(f"seed={seed} changes nothing where {why}; leave it out")
    return seed


def alpha_in(value: object) -> float:
    return number_in("alpha", value, 0, 1)


def share(name: str, value: object, of: str = "every weight") -> float:
    number = number_in(name, value, 0, 1)
    if number == 0:
        raise UserError(f"{name}=0 would drop {of}; use a value in (0, 1]")
    return number


def count(value: object) -> int | float:
    if isinstance(value, int) and not isinstance(value, bool):
        return int(number_in("k", value, 0, math.inf))
    return number_in("k (a fraction, as it is not a whole number)", value, 0, 1)


def counts(method: str, k: object, like: object) -> list[Selection]:
    if (k is None) == (like is None):
        raise UserError(
            f"{method} needs either k or like (a tau), got k={k} and like={like}; set one of them"
        )
    if like is not None:
        return [Selection(tau=tau) for tau in each(like, check_tau)]
    return [Selection(k=n) for n in each(k, count)]


def rank_in(rank: int | None) -> int | None:
    if rank is not None and rank < 1:
        raise UserError(f"rank={rank} must be at least 1, or null for no truncation")
    return rank


def layers_in(name: str) -> str:
    layer_range(name)
    return name
