"""Repairs as tensor functions: against dense arithmetic in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safemerge import arithmetic
from safemerge.errors import UserError

seeds = st.integers(0, 2**32 - 1)
ranks = st.integers(1, 8)


def factors(seed: int, rank: int, d_out: int = 18, d_in: int = 13) -> arithmetic.Factors:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rank, d_in, generator=generator), torch.randn(d_out, rank, generator=generator)


def dense(pair: arithmetic.Factors) -> torch.Tensor:
    return pair[1].double() @ pair[0].double()


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-6) -> bool:
    return bool((found - expected).norm() <= tolerance * expected.norm())


@settings(deadline=None)
@given(seeds, ranks, ranks, st.floats(0, 1))
def test_blend_is_exact(seed: int, r_task: int, r_safety: int, alpha: float) -> None:
    task, safety = factors(seed, r_task), factors(seed + 1, r_safety)
    merged = arithmetic.blend(task, safety, alpha)
    assert close(dense(merged), alpha * dense(task) + (1 - alpha) * dense(safety))
    assert merged[0].shape[0] <= r_task + r_safety


def test_blend_ends_are_the_adapters_themselves() -> None:
    task, safety = factors(1, 3), factors(2, 5)
    assert arithmetic.blend(task, safety, 1.0) is task
    assert arithmetic.blend(task, safety, 0.0) is safety


@settings(deadline=None)
@given(seeds, st.floats(0, 10))
def test_add_is_exact(seed: int, gamma: float) -> None:
    task, safety = factors(seed, 3), factors(seed + 1, 4)
    assert close(dense(arithmetic.add(task, safety, gamma)), dense(task) + gamma * dense(safety))


@settings(deadline=None)
@given(seeds, ranks, ranks)
def test_truncation_is_the_best_of_its_rank(seed: int, rank: int, kept: int) -> None:
    pair = factors(seed, rank)
    short, error = arithmetic.truncate(pair, kept)
    spectrum = torch.linalg.svdvals(dense(pair))
    expected = float(spectrum[kept:].norm() / spectrum.norm())
    assert error == pytest.approx(expected, abs=1e-9)
    assert short[0].shape[0] <= max(kept, 0) or rank <= kept
    assert (dense(short) - dense(pair)).norm() / dense(pair).norm() == pytest.approx(expected, abs=1e-6)


def test_truncating_zero_is_no_error() -> None:
    a, b = factors(1, 4)
    assert arithmetic.truncate((a, 0 * b), 2)[1] == 0.0


def test_dare_keeps_the_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    pair = factors(3, 4)
    mean = sum(dense(arithmetic.dare(pair, 0.5, generator)) for _ in range(4000)) / 4000
    assert close(mean, dense(pair), 0.1)


def test_dare_with_density_one_changes_nothing() -> None:
    pair = factors(3, 4)
    assert arithmetic.dare(pair, 1.0, torch.Generator()) == pair


def test_peft_combinations_need_equal_ranks() -> None:
    with pytest.raises(UserError, match="equal ranks, but task has 2 and safety 3; use combine=exact"):
        arithmetic.peft_blend("ties", factors(1, 2), factors(1, 3), (1, 1), 0.5, 0.5, torch.Generator())


@settings(deadline=None)
@given(seeds)
def test_peft_linear_has_the_cross_terms(seed: int) -> None:
    """It is (sqrt(w1) b1 + sqrt(w2) b2) (sqrt(w1) a1 + sqrt(w2) a2), not w1 b1 a1 + w2 b2 a2."""
    task, safety = factors(seed, 4), factors(seed + 1, 4)
    merged = arithmetic.peft_blend("peft_linear", task, safety, (2.0, 0.5), 0.8, None, torch.Generator())
    w1, w2 = 0.8 * 2.0, 0.2 * 0.5
    cross = (w1 * w2) ** 0.5 * (task[1].double() @ safety[0].double() + safety[1].double() @ task[0].double())
    assert close(dense(merged), w1 * dense(task) + w2 * dense(safety) + cross)
