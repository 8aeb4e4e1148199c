"""rho of a full update, and its projections, against their dense float64 definitions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safemerge import full_update, subspace
from tests.pico import dense_rho, peak_of_buffers

SIZES = st.integers(1, 40)
SEEDS = st.integers(0, 2**32 - 1)


def draw(seed: int, d_out: int, d_in: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(d_out, d_in, generator=generator), torch.randn(d_out, d_in, generator=generator)


def measure(update: torch.Tensor, v: torch.Tensor) -> subspace.Similarity:
    return full_update.similarity(update, float(update.double().norm()), v, float(v.double().norm()))


@settings(deadline=None)
@given(SEEDS, SIZES, SIZES)
def test_rho_is_its_definition_and_in_the_unit_interval(seed: int, d_out: int, d_in: int) -> None:
    update, v = draw(seed, d_out, d_in)
    found = measure(update, v)
    assert 0 <= found.rho <= 1
    # Ill-conditioned draws (a 1-column V nearly orthogonal to dW) lose digits in float32 by any method.
    assert found.rho == pytest.approx(dense_rho(update, v), rel=1e-4, abs=1e-6)
    wide = v.double()
    projected = wide @ wide.T @ update.double() / wide.norm()
    assert found.norm_projected == pytest.approx(float(projected.norm()), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("shape", [(768, 512), (512, 768), (640, 640)])
@pytest.mark.parametrize("rank", [1, 4, 512])
def test_rho_is_accurate_to_1e_6_at_any_spectrum(shape: tuple[int, int], rank: int) -> None:
    """V of low rank, and an update that mostly lies outside of it: rho is small, and its digits count."""
    update, v = draw(rank, *shape)
    v = v[:, :rank] @ v[:rank] if rank < 512 else v
    assert abs(measure(update, v).rho - dense_rho(update, v)) <= 1e-6


@pytest.mark.parametrize("shape", [(33, 20), (20, 33)])
@pytest.mark.parametrize("block", [1, 7, 512])
def test_the_block_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], block: int
) -> None:
    monkeypatch.setattr(full_update, "_BLOCK", block)
    monkeypatch.setattr(full_update, "_SHARE", 1)
    monkeypatch.setattr(full_update, "_WIDE", block)
    update, v = draw(1, *shape)
    assert measure(update, v).rho == pytest.approx(dense_rho(update, v), rel=1e-6)


@pytest.mark.parametrize("shape", [(12, 9), (9, 12)])
@pytest.mark.parametrize(("of_update", "of_v"), [(1e-25, 1e-25), (1e-30, 1e12), (1e15, 1e-20), (1e18, 1e15)])
def test_rho_ignores_scale(shape: tuple[int, int], of_update: float, of_v: float) -> None:
    update, v = draw(2, *shape)
    assert measure(update * of_update, v * of_v).rho == pytest.approx(measure(update, v).rho, rel=1e-5)


def test_degenerate_modules_are_zero_and_flagged() -> None:
    update, v = draw(1, 6, 5)
    zero = torch.zeros_like(v)
    assert measure(update, zero).flags == ("zero_v",)
    assert measure(zero, v).flags == ("zero_update",)
    assert measure(zero, zero).flags == ("zero_v", "zero_update")
    assert math.isnan(measure(update, v * math.nan).rho)
    update[:5], v[5] = 0, 0  # the update lives in the one output that alignment did not touch
    for left, right in ((update, v), (torch.cat([update, update], 1), torch.cat([v, v], 1))):
        assert (measure(left, right).rho, measure(left, right).flags) == (0.0, ("zero_projection",))


@settings(deadline=None)
@given(SEEDS, SIZES, SIZES)
def test_the_projections_are_those_of_factors(seed: int, d_out: int, d_in: int) -> None:
    """dW = dW I is a LoRA of full rank, so C dW and P dW must be what `subspace` makes of B = dW."""
    update, v = draw(seed, d_out, d_in)
    norm, norm_v = float(update.double().norm()), float(v.double().norm())
    expected = subspace.project(update, v, norm_v)
    torch.testing.assert_close(
        full_update.project(update, norm, v, norm_v), expected, atol=2e-6 * norm * norm_v, rtol=1e-4
    )
    expected = subspace.project_orthogonal(update, v, 0.9)
    torch.testing.assert_close(full_update.project_orthogonal(update.clone(), v, 0.9), expected)
    assert full_update.project(update, norm, torch.zeros_like(v), 0.0) is update


@pytest.mark.parametrize("shape", [(1024, 1536), (1536, 1024), (1024, 1024)])
def test_the_work_takes_less_than_a_matrix_beside_its_inputs(shape: tuple[int, int]) -> None:
    """C and V^T dW as a whole would each be a matrix or more, with their product beside."""
    update, v = draw(3, *shape)
    norms = float(update.norm()), float(v.norm())
    used = peak_of_buffers(lambda: full_update.similarity(update, norms[0], v, norms[1]))
    assert 0 < used < 0.8 * update.nbytes
    used = peak_of_buffers(lambda: full_update.project(update, norms[0], v, norms[1]))
    assert update.nbytes < used < 1.8 * update.nbytes


@pytest.mark.parametrize("shape", [(40, 90), (90, 40)])
def test_the_null_is_the_mean_rho_of_gaussian_updates(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(shape[0], 3, generator=generator) @ torch.randn(3, shape[1], generator=generator)
    found = [measure(torch.randn(shape, generator=generator), v) for _ in range(200)]
    rhos = torch.tensor([its.rho for its in found])
    assert found[0].null == pytest.approx(float(rhos.mean()), rel=0.01)
