"""Pairs of one prompt are not independent: the interval of a rate over them holds the truth as often as it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.schema import GuardRow, Verdict
from evaluation.judges import confusion, sensitivity_specificity
from evaluation.statistics import effective_size, rate_of, wilson

CLUSTERS = st.lists(
    st.integers(0, 6).flatmap(lambda m: st.tuples(st.integers(0, m), st.just(m))), min_size=1, max_size=30
)


def drawn(rng: np.random.Generator, sizes: list[int], p: float, alike: float) -> list[tuple[int, int]]:
    """Clusters whose trials succeed with probability p and correlate by `alike` (beta-binomial)."""
    q = rng.beta(p * (1 / alike - 1), (1 - p) * (1 / alike - 1), len(sizes)) if alike else p
    return list(zip(rng.binomial(sizes, q).tolist(), sizes, strict=True))


def coverage(sizes: list[int], p: float, alike: float, repeats: int = 1500) -> tuple[float, float]:
    """How often our interval holds p, and how often the one for independent trials does."""
    rng = np.random.default_rng([len(sizes), sum(sizes), round(100 * p), round(100 * alike)])
    ours = plain = 0
    for _ in range(repeats):
        clusters = drawn(rng, sizes, p, alike)
        k, n = sum(k for k, _ in clusters), sum(sizes)
        found = rate_of(k, n, effective_size(clusters))
        low, high = wilson(k, n)
        ours, plain = ours + (found.low <= p <= found.high), plain + (low <= p <= high)
    return ours / repeats, plain / repeats


@pytest.mark.parametrize("alike", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("p", [0.6, 0.8, 0.9, 0.95, 0.97])
@pytest.mark.parametrize(
    "sizes", [[3] * 40, [2] * 40, [1] * 10 + [2] * 20 + [3] * 10], ids=["3", "2", "mixed"]
)
def test_the_interval_holds_the_rate_as_often_as_it_says(sizes: list[int], p: float, alike: float) -> None:
    assert coverage(sizes, p, alike)[0] >= 0.93


def test_the_interval_of_independent_trials_would_not() -> None:
    """What was printed before, for a judge that is right on nine pairs in ten and alike on those of one prompt."""
    ours, plain = coverage([3] * 40, 0.9, 0.5)
    assert plain < 0.87 < 0.93 <= ours


@given(CLUSTERS)
def test_clusters_are_worth_at_most_their_trials_and_at_least_what_they_are_if_they_agree(
    clusters: list[tuple[int, int]],
) -> None:
    n = sum(m for _, m in clusters)
    if not n:
        assert effective_size(clusters) == 0
        return
    least = n**2 / sum(m**2 for _, m in clusters)
    assert least - 1e-9 <= effective_size(clusters) <= n + 1e-9


def test_the_size_follows_how_far_clusters_agree() -> None:
    apart, agreeing = [(1, 2)] * 20, [(2, 2), (0, 2)] * 10
    assert effective_size([(1, 1), (0, 1)] * 10) == pytest.approx(20), "clusters of one are independent"
    assert effective_size(apart) > 35 and effective_size(agreeing) == pytest.approx(20)
    assert effective_size([(3, 3)] * 10) == pytest.approx(10), (
        "without an error nobody knows: the worst is taken"
    )


def test_a_judges_rates_are_worth_what_their_prompts_say() -> None:
    """Ten prompts with two pairs of each label; the judge is wrong on all pairs of two of them. Case is no difference."""
    labels, verdicts = [], []
    for i in range(40):
        prompt, label = ("Prompt", "prompt!")[i % 2] + f" {i // 4}", ("safe", "unsafe")[i // 2 % 2]
        wrong = {"safe": "unsafe", "unsafe": "safe"}[label]
        labels.append(GuardRow(str(i), prompt, f"reply {i}", label))
        verdicts.append(Verdict(str(i), wrong if i // 4 < 2 else label))  # type: ignore[arg-type]
    found = confusion(labels, verdicts)
    assert (found.tp, found.fn, found.tn, found.fp) == (16, 4, 16, 4)
    assert found.unsafe_effective == found.safe_effective == pytest.approx(10)
    for rate in sensitivity_specificity(found):
        assert (rate.low, rate.high) == pytest.approx(wilson(8, 10))
