"""Means of continuous measures: their intervals, over one seed's prompts or over seeds too, and paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from evaluation.statistics import LEVEL, half_width

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 2000


@dataclass(frozen=True)
class Mean:
    """The mean of n prompts, with its 95 % interval; over seeds, `values` are theirs. n = 0 gives NaN."""

    n: int
    value: float
    low: float
    high: float
    values: list[float]  # a seed each


@dataclass(frozen=True)
class MeanDifference:
    """Mean of a - b on the same prompts: bootstrap interval, and p of the paired t test."""

    n: int
    difference: float
    low: float
    high: float
    p: float


def mean_over_seeds(rows: Sequence[Sequence[float]]) -> Mean:
    """The mean of seeds (rows) that answered the same prompts (columns); Student's t for one seed.

    Seeds that are all alike (the aligned model's) count as one. Without two prompts there is no interval.
    """
    import numpy as np
    from scipy.stats import t

    known = [list(row) for row in rows if len(row)]
    if not known:
        return Mean(0, math.nan, math.nan, math.nan, [])
    values = [math.fsum(row) / len(row) for row in known]
    n, value = len(known[0]), math.fsum(values) / len(values)
    half = math.nan
    if n > 1 and len({tuple(row) for row in known}) == 1:
        half = float(t.ppf(0.5 + LEVEL / 2, n - 1)) * float(np.std(known[0], ddof=1)) / math.sqrt(n)
    elif n > 1 and len({len(row) for row in known}) == 1:
        half = half_width(np.array(known, dtype=float))
    return Mean(n, value, value - half, value + half, values)


@lru_cache(maxsize=16)  # one table of draws serves all measures of equally many prompts
def _draws(n: int) -> np.ndarray:
    import numpy as np

    return np.random.default_rng(0).multinomial(n, [1 / n] * n, RESAMPLES) / n


def compare_means(a: Sequence[float], b: Sequence[float]) -> MeanDifference:
    """Paired comparison of two lists over the same prompts, in the same order. NaN without two prompts.

    The percentiles are expanded for small samples (Hesterberg 2015, section 5.3): plain ones are too narrow by a factor of
    the root of (n - 1) / n, and by the normal's quantile in place of Student's.
    """
    import numpy as np
    from scipy.stats import norm, t

    if len(a) != len(b):
        raise ValueError(f"paired lists differ in length: {len(a)} and {len(b)}")
    n, gaps = len(a), np.subtract(a, b)
    if n < 2:
        return MeanDifference(n, math.nan, math.nan, math.nan, math.nan)
    outside = float(norm.sf(math.sqrt(n / (n - 1)) * t.ppf(0.5 + LEVEL / 2, n - 1)))
    low, high = np.quantile(_draws(n) @ gaps, [outside, 1 - outside])
    mean, error = float(gaps.mean()), float(gaps.std(ddof=1)) / math.sqrt(n)
    p = float(2 * t.sf(abs(mean / error), n - 1)) if error else float(mean == 0)
    return MeanDifference(n, mean, float(low), float(high), p)
