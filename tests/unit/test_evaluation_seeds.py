"""A mean over seeds has an interval that covers the seeds as well as the prompts, as often as it says."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation import statistics as s
from evaluation.headline import SeedRate
from evaluation.tables import rate_text


@given(
    st.lists(st.lists(st.sampled_from([True, False, None]), min_size=5, max_size=5), min_size=1, max_size=4)
)
def test_the_mean_is_that_of_the_seeds_and_lies_in_its_interval(outcomes: list[list[bool | None]]) -> None:
    found = s.over_seeds(outcomes)
    rates = [rate for rate in map(s.rate, outcomes) if rate.n]
    if not rates:
        assert found.n == 0 and math.isnan(found.value)
        return
    assert found.value == pytest.approx(sum(rate.value for rate in rates) / len(rates))
    assert 0 <= found.low <= found.value + 1e-12 and found.value - 1e-12 <= found.high <= 1
    if len(rates) == 1:
        assert found == rates[0]


def test_seeds_that_answered_different_numbers_of_prompts_keep_the_prompts_interval() -> None:
    found = s.over_seeds([[True, False], [True, False, False]])
    assert (found.low, found.high) == s.wilson(found.k, found.n)


def test_equal_outcomes_have_the_interval_of_their_prompts() -> None:
    """As the aligned model's, on which no seed has an influence."""
    row = [True] * 3 + [False] * 97
    assert s.over_seeds([row] * 3) == s.rate(row)


@pytest.mark.parametrize(
    ("values", "invalid", "text"),
    [
        ([0.34, 0.41, 0.62], [0, 0, 0], "45.7 [20.0, 70.0] (34.0; 41.0; 62.0; n=100)"),
        ([0.457, 0.457], [9, 9], "45.7 [20.0, 70.0] (every seed; n=100) +9 invalid"),
        ([0.45, 0.464], [0, 2], "45.7 [20.0, 70.0] (45.0; 46.4; n=100) +0; 2 invalid"),
        ([0.457], [1], "45.7 [20.0, 70.0] (46/100) +1 invalid"),
    ],
)
def test_a_cell_names_each_seed_and_no_spread_of_what_never_varied(
    values: list[float], invalid: list[int], text: str
) -> None:
    assert rate_text(SeedRate(45.7, 100, 0.457, 0.2, 0.7, values, invalid))[0] == text
