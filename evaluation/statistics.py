"""Intervals, paired tests and power, all from statsmodels and scipy; this file only fixes the conventions.

Conventions: a rate is k/n with a 95 % Wilson interval; two methods are compared on the same prompts;
prompts where either outcome is missing (an invalid verdict) are dropped from the pair and counted; seeds
are never pooled with prompts.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

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
def wilson(k: float, n: float, level: float = LEVEL) -> tuple[float, float]:
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
    return rate_of(sum(known), len(known), len(known))


def rate_of(k: int, n: int, size: float) -> Rate:
    """k of n trials that are worth `size` independent ones: k/n with the Wilson interval of that size."""
    value = k / n if n else math.nan
    return Rate(k, n, value, *wilson(value * size, size))


def effective_size(clusters: Sequence[tuple[int, int]]) -> float:
    """How many independent trials those of these clusters, each (successes, trials), are worth; never more than there are.

    n over the design effect (Kish 1965): the linearised variance of the ratio of the clusters' sums over that of as many
    independent trials. Korn & Graubard 1998 (Survey Methodology 24) put such a size in place of n into an interval for
    independent trials. The effect lies between 1 and that of clusters which agree throughout, sum(m^2) / sum(m).
    OUR CHOICE: few trials of the rarer outcome say little of how clusters agree, and none say nothing, so the estimate
    counts as many times as there are such trials, and the upper bound once.
    Simulated coverage of the nominal 95 %: 93 % or more (tests/unit/test_evaluation_clusters.py).
    """
    known = [(k, m) for k, m in clusters if m]
    n, hits = sum(m for _, m in known), sum(k for k, _ in known)
    if not n:
        return 0.0
    most = sum(m**2 for _, m in known) / n
    rarer = min(hits, n - hits)
    effect = most
    if rarer and len(known) > 1:
        p = hits / n
        square = sum((k - p * m) ** 2 for k, m in known) * len(known) / (len(known) - 1)
        effect = min(most, max(1.0, square / (n * p * (1 - p))))
    return n / ((rarer * effect + most) / (rarer + 1))


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided exact McNemar p value from the discordant counts."""
    from statsmodels.stats.contingency_tables import mcnemar

    return float(mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue) if only_a + only_b else 1.0


def paired_interval(n: int, only_a: float, only_b: float, level: float = LEVEL) -> tuple[float, float]:
    """Interval of a difference of two rates on the same n prompts (Bonett & Price 2012): Wald with a pair added to each.

    Without a discordant prompt it still has the width that n allows; a bootstrap of equal outcomes has none.
    """
    from scipy.stats import norm

    if n < 1:
        return math.nan, math.nan
    a, b = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    half = float(norm.ppf(0.5 + level / 2)) * math.sqrt((a + b - (a - b) ** 2) / (n + 2))
    return max(-1.0, a - b - half), min(1.0, a - b + half)


def compare(a: Sequence[bool | None], b: Sequence[bool | None]) -> Paired:
    """Paired comparison of two outcome lists over the same prompts, in the same order."""
    if len(a) != len(b):
        raise ValueError(f"paired lists differ in length: {len(a)} and {len(b)}")
    both = [(bool(x), bool(y)) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    only_a, only_b = sum(x and not y for x, y in both), sum(y and not x for x, y in both)
    n = len(both)
    difference = (only_a - only_b) / n if n else math.nan
    low, high = paired_interval(n, only_a, only_b)
    return Paired(n, len(a) - n, only_a, only_b, difference, low, high, mcnemar_exact(only_a, only_b))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-adjusted p values, in the order given."""
    if not p_values:
        return []
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(list(p_values), method="holm")[1]]


def mean(values: Sequence[float]) -> float:
    """The mean of the values that are numbers; NaN without any."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def half_width(table: np.ndarray) -> float:
    """Half the 95 % interval of the mean of a seeds x prompts table (two or more of each), which covers both.

    A two-way layout with random rows and columns (Searle, Casella & McCulloch 1992, ch. 4): the variance of the mean is the
    sum of what seeds, prompts and the rest contribute. Each contribution counts with Student's t of its own degrees of
    freedom, since pooling them as Satterthwaite does covers 92 % where three seeds differ much.
    """
    from scipy.stats import t

    seeds, prompts = table.shape
    of_seed, of_prompt, whole = table.mean(1), table.mean(0), table.mean()
    rest = ((table - of_seed[:, None] - of_prompt + whole) ** 2).sum() / ((seeds - 1) * (prompts - 1))
    between_seeds = prompts * ((of_seed - whole) ** 2).sum() / (seeds - 1)
    between_prompts = seeds * ((of_prompt - whole) ** 2).sum() / (prompts - 1)
    parts = (
        (max(0.0, between_seeds - rest), seeds - 1),
        (max(0.0, between_prompts - rest), prompts - 1),
        (rest, (seeds - 1) * (prompts - 1)),
    )
    total = sum(square * float(t.ppf(0.5 + LEVEL / 2, freedom)) ** 2 for square, freedom in parts)
    return math.sqrt(float(total) / table.size)


def over_seeds(outcomes: Sequence[Sequence[bool | None]]) -> Rate:
    """The mean rate of seeds (rows) that answered the same prompts (columns), with an interval that covers both.

    The interval is that of `half_width`, and never narrower than one seed's own Wilson interval. Simulated coverage of the
    nominal 95 %: docs/trust.md; one seed's Wilson interval around the same mean holds 85 % where seeds differ as those of
    the default model do.
    """
    import numpy as np

    rates = [found for row in outcomes if (found := rate(row)).n]
    # Equal outcomes are those of the aligned model, say, which no seed touches.
    if len(rates) < 2 or len(set(map(tuple, outcomes))) == 1:
        return rates[0] if rates else rate([])
    value = mean([found.value for found in rates])
    n = round(sum(found.n for found in rates) / len(rates))
    low, high = wilson(value * n, n)
    if len({len(row) for row in outcomes}) == 1 and n > 1:
        # A missing outcome takes its seed's mean: it then adds nothing to the variance.
        table = np.array(
            [
                [found.value if x is None else float(x) for x in row]
                for row, found in zip((r for r in outcomes if rate(r).n), rates, strict=True)
            ]
        )
        half = half_width(table)
        low, high = min(low, value - half), max(high, value + half)
    return Rate(value * n, n, value, max(0.0, low), min(1.0, high))


def paired_power(n: int, difference: float, opposite: float, level: float) -> float:
    """Power of the exact McNemar test at this level against a difference (> 0) on the same n prompts.

    opposite: the share of the prompts that change the other way; `difference + opposite` change with the difference.
    """
    import numpy as np
    from scipy.stats import binom

    discordant = np.arange(n + 1)
    share = difference + 2 * opposite
    # The two-sided p value is twice the tail: reject from the first count whose tail is level / 2 at most.
    critical = binom.isf(level / 2, discordant, 0.5) + 1
    rejected = binom.sf(critical - 1, discordant, (difference + opposite) / share)
    return float((binom.pmf(discordant, n, share) * rejected).sum())


def detectable_difference(
    n: int, *, opposite: float = 0.0, comparisons: int = 1, power: float = 0.8, level: float = LEVEL
) -> float:
    """Smallest paired difference that the exact McNemar test shows with this power, to a tenth of a point; NaN for none.

    comparisons: of one family; Holm tests the smallest of its p values at (1 - level) / comparisons.
    """
    alpha = (1 - level) / max(1, comparisons)
    steps = range(1, math.floor(1000 * (1 - 2 * opposite)) + 1)
    # Power grows with the difference.
    first = bisect_left(steps, power, key=lambda step: paired_power(n, step / 1000, opposite, alpha))
    return steps[first] / 1000 if first < len(steps) else math.nan


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
