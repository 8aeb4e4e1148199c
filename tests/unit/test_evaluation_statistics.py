"""Our conventions against scipy, statsmodels and scikit-free textbook formulas on random inputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evaluation import statistics as s


@given(st.integers(1, 600), st.data())
@settings(max_examples=60, deadline=None)
def test_wilson_is_the_score_interval(n, data):
    k = data.draw(st.integers(0, n))
    expected = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert s.wilson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_wilson_of_nothing_is_nan():
    assert all(math.isnan(x) for x in s.wilson(0, 0))
    assert math.isnan(s.rate([None, None]).value)


@given(st.integers(0, 60), st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_mcnemar_is_the_binomial_test_of_the_discordant(b, c):
    expected = stats.binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert s.mcnemar_exact(b, c) == pytest.approx(expected, abs=1e-9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
@settings(max_examples=60, deadline=None)
def test_holm_by_hand(p):
    order, running, expected = sorted(range(len(p)), key=lambda i: p[i]), 0.0, [0.0] * len(p)
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p) - rank) * p[i]))
        expected[i] = running
    assert s.holm(p) == pytest.approx(expected, abs=1e-12)


def test_compare_counts_pairs_and_drops_invalid():
    found = s.compare([True, True, False, None, True], [False, True, True, True, None])
    assert (found.n, found.dropped, found.only_a, found.only_b, found.difference) == (3, 2, 1, 1, 0.0)
    with pytest.raises(ValueError, match="length"):
        s.compare([True], [])


@pytest.mark.parametrize(
    ("only_a", "only_b"), [(0.0, 0.0), (0.02, 0.0), (0.1, 0.05), (0.3, 0.1), (0.25, 0.25)]
)
@pytest.mark.parametrize("n", [50, 100])
def test_the_interval_of_a_paired_difference_holds_the_truth_as_often_as_it_says(n, only_a, only_b):
    rng = np.random.default_rng(n)
    drawn = rng.multinomial(n, [only_a, only_b, 1 - only_a - only_b], 4000)
    ends = [s.paired_interval(n, int(a), int(b)) for a, b, _ in drawn]
    held = np.mean([low <= only_a - only_b <= high for low, high in ends])
    assert held >= 0.935
    low, high = s.paired_interval(n, 0, 0)
    assert low < 0 < high, "no discordant prompt does not prove equality"


def test_compare_has_the_pairs_own_interval():
    rng = np.random.default_rng(0)
    a, b = rng.random(300) < 0.4, rng.random(300) < 0.2
    found = s.compare(list(a), list(b))
    assert found.low < found.difference < found.high
    normal = 1.96 * np.std(a.astype(float) - b.astype(float)) / math.sqrt(300)
    assert found.high - found.low == pytest.approx(2 * normal, rel=0.05)


@pytest.mark.parametrize(
    ("n", "opposite", "comparisons"), [(50, 0.0, 1), (50, 0.05, 7), (100, 0.05, 7), (100, 0.0, 1)]
)
def test_the_detectable_difference_is_shown_with_the_power_it_says(n, opposite, comparisons):
    """By simulation, with the test that the report uses."""
    found = s.detectable_difference(n, opposite=opposite, comparisons=comparisons)
    rng = np.random.default_rng(1)
    drawn = rng.multinomial(n, [found + opposite, opposite, 1 - found - 2 * opposite], 2000)
    power = np.mean([a > b and s.mcnemar_exact(int(a), int(b)) <= 0.05 / comparisons for a, b, _ in drawn])
    assert power == pytest.approx(0.8, abs=0.06)


def test_the_pitfall_of_400_prompts():
    # 8.8 % against 11.9 % at n = 400 is no difference where one prompt in ten changes either way
    assert s.detectable_difference(400, opposite=0.05) > 0.119 - 0.088


def test_more_prompts_show_less_and_more_tests_need_more():
    least = s.detectable_difference(50)
    assert s.detectable_difference(200) < least < s.detectable_difference(50, comparisons=7)
    assert 0.20 < s.detectable_difference(50, comparisons=7) < 0.32, "not the 24.5 of two independent samples"
    assert math.isnan(s.detectable_difference(3))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=2, max_size=60))
@settings(max_examples=60, deadline=None)
def test_kappa_is_statsmodels(pairs):
    from statsmodels.stats.inter_rater import cohens_kappa

    table = np.array([[sum(p == (x, y) for p in pairs) for y in "abc"] for x in "abc"])
    found = s.kappa([x for x, _ in pairs], [y for _, y in pairs])
    if math.isnan(found):
        assert len({*sum(pairs, ())}) == 1
    else:
        assert found == pytest.approx(cohens_kappa(table, return_results=False), abs=1e-9)
