"""What sets of modules share by chance."""

from __future__ import annotations

import math


def chance(modules: int, a: int, b: int, shared: int) -> tuple[float, float, float, float]:
    """Of sets of a and b modules drawn at random: the mean Jaccard index, its central 95 %, and P(overlap >= shared)."""
    from scipy.stats import hypergeom

    if not a + b:
        return math.nan, math.nan, math.nan, math.nan
    drawn = hypergeom(modules, a, b)
    overlaps = range(max(0, a + b - modules), min(a, b) + 1)
    mean = math.fsum(float(drawn.pmf(x)) * x / (a + b - x) for x in overlaps)
    low, high = (float(drawn.ppf(q)) for q in (0.025, 0.975))
    return mean, low / (a + b - low), high / (a + b - high), float(drawn.sf(shared - 1))
