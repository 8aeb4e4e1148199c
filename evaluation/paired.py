"""Paired differences over seeds and prompts: the mean, an interval that covers both, and what they could have shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evaluation import statistics
from evaluation.means import compare_means

if TYPE_CHECKING:
    import numpy as np

POWER = 0.8


@dataclass(frozen=True)
class Difference:
    """The mean over seeds of a - b on the same n prompts, with a 95 % interval that covers seeds and prompts.

    values: a seed each. `detectable`: the smallest difference either way that is shown with 80 % power; NaN where none is.
    """

    n: int
    difference: float
    low: float
    high: float
    values: list[float]
    detectable: float

    @property
    def seeds(self) -> int:
        return len(self.values)


def gaps(ours: Sequence[bool | None], theirs: Sequence[bool | None]) -> list[float]:
    """Their differences per prompt; NaN where a verdict is invalid."""
    return [
        math.nan if a is None or b is None else float(a) - float(b) for a, b in zip(ours, theirs, strict=True)
    ]


def of_outcomes(found: Sequence[Sequence[Sequence[float]]], *, powered: bool = True) -> Difference | None:
    """Differences of rates, from each seed's, each draw's difference per prompt: -1, 0, 1, or NaN where an outcome lacks.

    Draws are averaged prompt by prompt, and the interval does not cover them. As for rates, it is never narrower than the
    Bonett-Price interval of one seed's prompts, which has a width without a discordant prompt too. None: nothing to
    compare.

    `detectable` is that of the exact McNemar test of one seed, where as many prompts change against the difference as do
    here; over seeds not below that of the wider interval: (1 + z_.8 / z_.975) of its half width, a normal approximation.
    It takes some milliseconds; not `powered`: NaN.
    """
    import numpy as np

    tables = [np.array(draws, dtype=float) for draws in found if draws]
    seeds = [_by_prompt(table) for table in tables]
    values = [float(np.nanmean(row)) if not np.isnan(row).all() else math.nan for row in seeds]
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return None
    ours, theirs = (
        sum(float((sign * table > 0).sum()) / len(table) for table in tables) / len(tables)
        for sign in (1, -1)
    )
    difference = statistics.mean(known)
    n = round(statistics.mean([float((~np.isnan(row)).sum()) for row in seeds]))
    low, high = statistics.paired_interval(n, ours, theirs)
    detectable = math.nan
    if powered and n:
        detectable = statistics.detectable_difference(n, opposite=min(ours, theirs) / n)
    if len(known) > 1 and n > 1 and len({len(row) for row in seeds}) == 1:
        # A missing outcome takes its seed's mean: it then adds nothing to the variance.
        both = (pair for pair in zip(seeds, values, strict=True) if not math.isnan(pair[1]))
        half = statistics.half_width(np.array([np.where(np.isnan(row), value, row) for row, value in both]))
        low, high = min(low, difference - half), max(high, difference + half)
        detectable = max(detectable, _shown(half))
    return Difference(n, difference, max(-1.0, low), min(1.0, high), values, detectable)


def _by_prompt(table: np.ndarray) -> np.ndarray:
    """The mean over the draws (rows) of each prompt; NaN where no draw has a valid outcome."""
    import numpy as np

    if len(table) == 1:
        mean: np.ndarray = table[0]
        return mean
    valid = (~np.isnan(table)).sum(0)
    return np.where(valid > 0, np.nansum(table, axis=0) / np.maximum(valid, 1), math.nan)


def of_means(gaps: Sequence[Sequence[float]]) -> Difference | None:
    """Differences of means, from each seed's difference per prompt; None without two prompts that all seeds have."""
    import numpy as np

    if not gaps or len({len(row) for row in gaps}) > 1 or len(gaps[0]) < 2:
        return None
    values = [math.fsum(row) / len(row) for row in gaps]
    difference, n = math.fsum(values) / len(values), len(gaps[0])
    if len(gaps) > 1 and len(set(map(tuple, gaps))) > 1:
        half = statistics.half_width(np.array(gaps, dtype=float))
        low, high = difference - half, difference + half
    else:
        found = compare_means(gaps[0], [0.0] * n)
        low, high = found.low, found.high
        half = max(high - difference, difference - low)
    return Difference(n, difference, low, high, values, _shown(half))


def _shown(half: float) -> float:
    """What an interval of this half width shows with `POWER`, by the normal approximation."""
    from scipy.stats import norm

    return half * (1 + float(norm.ppf(POWER)) / float(norm.ppf(0.5 + statistics.LEVEL / 2)))
