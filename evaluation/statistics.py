"""Intervals, paired tests and power, all from statsmodels and scipy; this file only fixes the conventions.

Conventions: a rate is k/n with a 95 % Wilson interval; two methods are compared on the same prompts;
prompts where either outcome is missing (an invalid verdict) are dropped from the pair and counted; seeds
are never pooled with prompts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

LEVEL = 0.95


@dataclass(frozen=True)
class Rate:
    """k of n, its value and interval in [0, 1]; n = 0 gives NaN."""

    k: float
    n: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """a - b on the same prompts.

    `only_a`, `only_b`: discordant prompts; difference and interval in [-1, 1].
    """

    n: int
    dropped: int
    only_a: int
    only_b: int
    difference: float
    low: float
    high: float
    p: float


@lru_cache(maxsize=65536)  # a report asks for the same few counts thousands of times
def wilson(k: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson score interval of k successes in n trials; (NaN, NaN) for n = 0."""
    if n <= 0:
        return math.nan, math.nan
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(k, n, alpha=1 - level, method="wilson")
    # rounding must not put the rate outside its own interval
    return min(max(0.0, float(low)), k / n), max(min(1.0, float(high)), k / n)


def rate(outcomes: Sequence[bool | None]) -> Rate:
    """The rate of True among the outcomes that are not None."""
    known = [bool(x) for x in outcomes if x is not None]
    k, n = sum(known), len(known)
    low, high = wilson(k, n)
    return Rate(k, n, k / n if n else math.nan, low, high)


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided exact McNemar p value from the discordant counts."""
    from statsmodels.stats.contingency_tables import mcnemar

    return float(mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue) if only_a + only_b else 1.0


def bootstrap_difference(
    a: Sequence[float], b: Sequence[float], *, resamples: int = 2000, seed: int = 0, level: float = LEVEL
) -> tuple[float, float]:
    """Percentile interval of mean(a - b), prompts resampled in pairs.

    Constant differences give a zero-width interval.
    """
    import numpy as np
    from scipy.stats import bootstrap

    delta = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    if delta.size == 0:
        return math.nan, math.nan
    if delta.size < 2 or np.all(delta == delta[0]):
        return float(delta.mean()), float(delta.mean())
    found = bootstrap(
        (delta,),
        np.mean,
        n_resamples=resamples,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
        vectorized=True,
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def compare(
    a: Sequence[bool | None], b: Sequence[bool | None], *, resamples: int = 2000, seed: int = 0
) -> Paired:
    """Paired comparison of two outcome lists over the same prompts, in the same order."""
    if len(a) != len(b):
        raise ValueError(f"paired lists differ in length: {len(a)} and {len(b)}")
    both = [(bool(x), bool(y)) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    only_a, only_b = sum(x and not y for x, y in both), sum(y and not x for x, y in both)
    n = len(both)
    low, high = bootstrap_difference(
        [float(x) for x, _ in both], [float(y) for _, y in both], resamples=resamples, seed=seed
    )
    difference = (only_a - only_b) / n if n else math.nan
    return Paired(n, len(a) - n, only_a, only_b, difference, low, high, mcnemar_exact(only_a, only_b))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-adjusted p values, in the order given."""
    if not p_values:
        return []
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(list(p_values), method="holm")[1]]


def seeds(values: Sequence[float]) -> tuple[float, float, int]:
    """(mean, sample standard deviation, number of seeds); the deviation is NaN for fewer than two."""
    known = [v for v in values if not math.isnan(v)]
    if not known:
        return math.nan, math.nan, 0
    mean = math.fsum(known) / len(known)
    if len(known) < 2:
        return mean, math.nan, len(known)
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in known) / (len(known) - 1)), len(known)


def seed_rate(values: Sequence[float], n: int) -> Rate:
    """The mean rate over seeds, with the Wilson interval of n prompts (not n times seeds.

    The prompts are the same ones).
    """
    mean, _, _ = seeds(values)
    if math.isnan(mean) or n <= 0:
        return Rate(math.nan, n, math.nan, math.nan, math.nan)
    low, high = wilson(mean * n, n)
    return Rate(mean * n, n, mean, low, high)


def detectable_difference(n: int, p: float, *, power: float = 0.8, level: float = LEVEL) -> float:
    """Smallest drop or rise from rate p that two independent samples of n show with this power (arcsine
    effect size).

    Conservative for paired prompts, whose difference varies less. In [0, 1]; NaN when n is too small for any.
    """
    if n < 2 or math.isnan(p):
        return math.nan
    from statsmodels.stats.power import NormalIndPower

    effect = float(NormalIndPower().solve_power(nobs1=n, alpha=1 - level, power=power))
    middle = math.asin(
        math.sqrt(p)
    )  # an effect is twice a difference of such angles, which go from 0 to pi/2
    angles = [middle + sign * effect / 2 for sign in (-1, 1)]
    found = [abs(math.sin(angle) ** 2 - p) for angle in angles if 0 <= angle <= math.pi / 2]
    return min(found, default=math.nan)


def kappa(a: Sequence[str], b: Sequence[str]) -> float:
    """Cohen's kappa of two judges; NaN when it is undefined (nothing judged, or one label only)."""
    from statsmodels.stats.inter_rater import cohens_kappa

    if len(a) != len(b):
        raise ValueError(f"judges differ in length: {len(a)} and {len(b)}")
    labels = sorted({*a, *b})
    if len(labels) < 2:
        return math.nan
    both = Counter(zip(a, b, strict=True))
    table = [[both[x, y] for y in labels] for x in labels]
    return float(cohens_kappa(table, return_results=False))
