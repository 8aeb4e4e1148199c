"""Our conventions against scipy, statsmodels and scikit-free textbook formulas on random inputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evaluation import statistics as s
from evaluation.judges import Calibration, corrected_rate, sensitivity_specificity


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


def test_bootstrap_covers_the_truth_and_is_reproducible():
    rng = np.random.default_rng(0)
    a, b = rng.random(300) < 0.4, rng.random(300) < 0.2
    first, second = s.compare(list(a), list(b)), s.compare(list(a), list(b))
    assert first == second
    assert first.low < first.difference < first.high
    normal = 1.96 * np.std(a.astype(float) - b.astype(float)) / math.sqrt(300)
    assert first.high - first.low == pytest.approx(2 * normal, rel=0.15)


@pytest.mark.parametrize("n", [50, 200, 400])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
def test_detectable_difference_has_the_power_it_says(n, p):
    from statsmodels.stats.power import NormalIndPower
    from statsmodels.stats.proportion import proportion_effectsize

    d = s.detectable_difference(n, p)
    q = p + d if p + d <= 1 else p - d
    effects = [abs(proportion_effectsize(p, x)) for x in (q, p - d) if 0 <= x <= 1]
    power = [NormalIndPower().power(e, n, 0.05) for e in effects]
    assert any(abs(x - 0.8) < 0.01 for x in power)


def test_the_pitfall_of_400_prompts():
    # 8.8 % against 11.9 % at n = 400 is no difference: less than what this n can show
    assert s.detectable_difference(400, 0.119) > 0.119 - 0.088


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


def test_rogan_gladen_recovers_the_true_rate():
    counts = Calibration(n=2000, tp=900, fn=100, tn=950, fp=50, invalid=0)
    truth = 0.3
    observed = round(1000 * (truth * 0.9 + (1 - truth) * 0.05))
    found = corrected_rate(s.Rate(observed, 1000, observed / 1000, 0, 1), counts)
    assert found.value == pytest.approx(truth, abs=1e-9)
    assert 0 <= found.low < truth < found.high <= 1
    sensitivity, specificity = sensitivity_specificity(counts)
    assert (sensitivity.value, specificity.value) == (0.9, 0.95)


def test_no_correction_by_a_judge_no_better_than_chance():
    counts = Calibration(n=20, tp=5, fn=5, tn=5, fp=5, invalid=0)
    assert corrected_rate(s.Rate(5, 10, 0.5, 0, 1), counts) is None


@pytest.mark.slow
def test_rogan_gladen_interval_covers():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        tp, tn = rng.binomial(60, 0.92), rng.binomial(60, 0.9)
        k = rng.binomial(150, 0.25 * 0.92 + 0.75 * 0.1)
        counts = Calibration(n=120, tp=int(tp), fn=int(60 - tp), tn=int(tn), fp=int(60 - tn), invalid=0)
        found = corrected_rate(s.rate([True] * k + [False] * (150 - k)), counts)
        hits += found is not None and found.low <= 0.25 <= found.high
    assert hits / 400 > 0.92
