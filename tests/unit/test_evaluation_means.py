"""Means of continuous measures: their intervals hold what they promise, and paired tests see what rates do not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import ttest_rel

from evaluation.means import compare_means, mean_over_seeds


@pytest.mark.parametrize(("seeds", "seed_spread"), [(3, 0.0), (3, 0.5), (3, 1.0), (5, 0.2), (10, 0.5)])
def test_interval_over_seeds_covers(seeds: int, seed_spread: float) -> None:
    """Skewed prompts, an effect of the seed, and noise; the mean of all of them is 0."""
    rng, prompts, hits = np.random.default_rng(seeds), 60, 0
    for _ in range(600):
        table = (
            rng.normal(0, seed_spread, (seeds, 1))
            + (rng.exponential(1, prompts) - 1)
            + rng.normal(0, 0.5, (seeds, prompts))
        )
        found = mean_over_seeds(table.tolist())
        hits += found.low <= 0 <= found.high
    assert hits / 600 >= 0.93


def test_one_seed_is_students_t() -> None:
    found = mean_over_seeds([[1.0, 2.0, 3.0, 6.0]])
    assert (found.n, found.value, found.values) == (4, 3.0, [3.0])
    assert found.high - found.value == pytest.approx(3.182446 * math.sqrt(14 / 3) / 2)  # t(3), by table


def test_seeds_that_are_all_alike_count_once() -> None:
    row = [1.0, 2.0, 3.0, 6.0]
    assert mean_over_seeds([row, row, row]).high == mean_over_seeds([row]).high


@pytest.mark.parametrize("rows", [[], [[]], [[0.5]], [[0.5], [0.7]]])
def test_too_little_for_an_interval(rows: list[list[float]]) -> None:
    assert math.isnan(mean_over_seeds(rows).low)


def test_paired_differences() -> None:
    rng = np.random.default_rng(1)
    common = rng.normal(0, 5, 50)  # of the prompts: far larger than the difference
    a, b = common + 0.4 + rng.normal(0, 0.5, 50), common + rng.normal(0, 0.5, 50)
    found = compare_means(a.tolist(), b.tolist())
    assert found.p == pytest.approx(float(ttest_rel(a, b).pvalue)) and found.p < 0.01
    assert found.low < found.difference < found.high and found.low > 0
    assert compare_means(b.tolist(), a.tolist()).difference == pytest.approx(-found.difference)


def test_no_difference_at_all() -> None:
    found = compare_means([1.0, 2.0], [1.0, 2.0])
    assert (found.difference, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)
    assert compare_means([2.0, 3.0], [1.0, 2.0]).p == 0.0
    assert math.isnan(compare_means([1.0], [2.0]).p)
    with pytest.raises(ValueError, match="differ in length"):
        compare_means([1.0], [])
