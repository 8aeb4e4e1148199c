"""Intervals hold the true value as often as they say, over seeds as well; one seed's interval around a mean would not."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation import statistics as s
from tests.coverage import SPREAD, Case, cases, outcomes

#: Skewed differences of a few prompts: no interval without a model of the skew holds more. docs/trust.md says so.
LESS = {"n = 20, skewed": 0.91}


@pytest.mark.parametrize("case", cases(), ids=lambda case: f"{case.statistic}, {case.setting}")
def test_an_interval_holds_the_truth_as_often_as_it_says(case: Case) -> None:
    # 93 %, less what 400 studies leave to chance in one of thirty tests
    assert case.coverage(400) >= LESS.get(case.setting, 0.93) - 0.02


def test_one_seeds_interval_around_the_mean_would_not() -> None:
    """What was printed before, at the spread of the default model's seeds."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        found = s.over_seeds(outcomes(rng, 3, 100, 0.5, SPREAD))
        low, high = s.wilson(found.k, found.n)
        held += low <= 0.5 <= high
    assert held / 400 < 0.88
