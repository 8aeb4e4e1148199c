"""Means of continuous measures, and paired tests of them; how often their intervals hold: test_evaluation_coverage.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import ttest_rel

from evaluation.means import compare_means, mean_over_seeds


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
