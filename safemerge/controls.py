"""Controls: as many modules as SafeMERGE takes, chosen otherwise, blended likewise. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from safemerge.errors import UserError
from safemerge.points import alpha_in, blend, counts, each, layers_in, point_of
from safemerge.selection import Point, Rule, Selection, Tau

__all__ = ["by_kind", "by_layer", "random_k", "ranked_k"]

#: Orders of the modules, and the rule that takes the first ones.
RANKED: dict[str, Rule] = {
    "highest": "highest",
    "lowest_null": "lowest_null",
    "lowest_ratio": "lowest_ratio",
}


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
    seeds = each(seed, int)
    return [
        point_of("random", Selection("random", s.tau, s.k, n), blend(a, combine, density, n))
        for s, n, a in product(counts("random_k", k, like), seeds, each(alpha, alpha_in))
    ]


def ranked_k(
    *,
    by: str,
    alpha: float | Sequence[float],
    k: float | Sequence[float] | None = None,
    like: Tau | Sequence[Tau] | None = None,
    combine: str = "exact",
    density: float | None = None,
) -> list[Point]:
    """Control: blend the k modules that come first in some order, or as many as SafeMERGE takes with tau = `like`.

    by: `highest`, those that moved least away; `lowest_null`, those whose rho would be lowest if the update knew nothing of
    V (`safemerge.null`), by V's spectrum and the module's shape, never by the fine-tuning; `lowest_ratio`, those of lowest
    rho over its null, the part of rho that is not the module's.
    """
    if by not in RANKED:
        raise UserError(f"by={by} is unknown; use one of {', '.join(RANKED)}")
    return [
        point_of(by.removeprefix("lowest_"), Selection(RANKED[by], s.tau, s.k), blend(a, combine, density))
        for s, a in product(counts(f"ranked_k by {by}", k, like), each(alpha, alpha_in))
    ]


def by_kind(
    *, kinds: str | Sequence[str], alpha: float | Sequence[float], combine: str = "exact"
) -> list[Point]:
    """Control: blend all modules of the given kinds, e.g. [q_proj, v_proj], whatever their rho."""
    names = tuple(sorted(each(kinds, str)))
    return [
        point_of("kinds", Selection("kinds", names=names), blend(a, combine)) for a in each(alpha, alpha_in)
    ]


def by_layer(
    *, layers: str | int | Sequence[str | int], alpha: float | Sequence[float], combine: str = "exact"
) -> list[Point]:
    """Control: blend all modules of the given blocks, e.g. [0, 1, "10-15"], whatever their rho."""
    names = tuple(each(layers, lambda layer: layers_in(str(layer))))
    return [
        point_of("layers", Selection("layers", names=names), blend(a, combine)) for a in each(alpha, alpha_in)
    ]
