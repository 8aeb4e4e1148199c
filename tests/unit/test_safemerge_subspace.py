"""rho, its table and the projection against their dense float64 definitions."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from safemerge import similarity_table, subspace
from tests.conftest import Pico
from tests.pico import allocations, deltas, dense_rho, modules

sizes = st.integers(1, 24)
seeds = st.integers(0, 2**32 - 1)
scales = st.floats(1e-6, 1e6)
Projection = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def draw(seed: int, d_out: int, d_in: int, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = (rank, d_in), (d_out, rank), (d_out, d_in)
    return tuple(torch.randn(*shape, generator=generator) for shape in shapes)  # type: ignore[return-value]


def measure(a: torch.Tensor, b: torch.Tensor, v: torch.Tensor, scaling: float = 1.0) -> subspace.Similarity:
    return subspace.similarity(subspace.fold(a, b), v, torch.zeros_like(v), scaling)


@settings(deadline=None)
@given(seeds, sizes, sizes, st.integers(1, 8))
def test_rho_is_its_definition_and_in_the_unit_interval(seed: int, d_out: int, d_in: int, rank: int) -> None:
    a, b, v = draw(seed, d_out, d_in, rank)
    found = measure(a, b, v)
    assert 0 <= found.rho <= 1
    # Ill-conditioned draws (a 1-column V nearly orthogonal to dW) lose digits in float32 by any method.
    assert found.rho == pytest.approx(dense_rho(b.double() @ a.double(), v), rel=1e-4, abs=1e-6)


@settings(deadline=None)
@given(seeds, scales, scales, scales, st.sampled_from([1.0, -1.0]))
def test_rho_ignores_scale(seed: int, of_a: float, of_b: float, of_v: float, sign: float) -> None:
    a, b, v = draw(seed, 12, 9, 3)
    assert measure(a * of_a, sign * b * of_b, v * of_v).rho == pytest.approx(measure(a, b, v).rho, rel=1e-5)


def test_norms_are_the_dense_ones() -> None:
    a, b, v = draw(3, 20, 16, 4)
    found = measure(a, b, v, scaling=0.5)
    delta, wide = 0.5 * b.double() @ a.double(), v.double()
    assert found.norm_task == pytest.approx(float(delta.norm()), rel=1e-6)
    assert found.norm_projected == pytest.approx(
        float((wide @ wide.T @ delta / wide.norm()).norm()), rel=1e-5
    )


@pytest.mark.parametrize("threads", [1, 2, 3, 40])
def test_rho_in_blocks_of_any_size_on_any_number_of_threads(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for rows in (1, 2, 7, 12, 90):
            monkeypatch.setattr(subspace, "_BLOCK", rows * 30)
            a, b, v = draw(rows, 90, 30, 4)
            found = measure(a, b, v)
            assert found.rho == pytest.approx(dense_rho(b.double() @ a.double(), v), rel=1e-6)
            assert found.norm_v == pytest.approx(float(v.double().norm()), rel=1e-6)
    finally:
        torch.set_num_threads(before)


def test_a_block_of_v_takes_no_memory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block's temporaries were new memory: their page faults took up to half as long again, on some heaps only."""
    monkeypatch.setattr(subspace, "_BLOCK", 64 * 512)
    block = 64 * 512 * 4
    a, b, v = draw(1, 2048, 512, 8)
    aligned, base, folded = v.bfloat16(), torch.zeros_like(v).bfloat16(), subspace.fold(a, b)
    made = [size for size in allocations(lambda: subspace.similarity(folded, aligned, base)) if size >= block]
    # V in two buffers, and the factors and products, each a few times
    assert len(made) < 32, f"{len(made)} buffers as large as a block, for 32 blocks made twice"


def test_cancelling_factors_keep_their_accuracy() -> None:
    a, b, v = draw(5, 64, 48, 2)
    a[1] = a[0] + 1e-4 * a[1]
    b[:, 1] = -b[:, 0]
    assert measure(a, b, v).rho == pytest.approx(dense_rho(b.double() @ a.double(), v), abs=1e-6)


@pytest.mark.parametrize("rank", [8, 16, 64])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_checkpoints_are_accurate_to_1e_6(dtype: torch.dtype, rank: int) -> None:
    a, b, step = draw(rank, 384, 256, rank)
    base = (0.02 * torch.randn(384, 256, generator=torch.Generator().manual_seed(1))).to(dtype)
    aligned = (base.float() + 0.001 * step).to(dtype)
    v = torch.empty(384, 256)
    norm = subspace.difference(aligned, base, v)
    exact = aligned.double() - base.double()
    assert norm == pytest.approx(float(exact.norm()), rel=1e-6)
    found = subspace.similarity(subspace.fold(a, b), aligned, base)
    assert found.norm_v == norm
    assert abs(found.rho - dense_rho(b.double() @ a.double(), exact)) <= 1e-6


@pytest.mark.parametrize("block", [1, 40, 100, 1 << 19])
def test_rho_and_v_do_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    a, b, v = draw(7, 33, 20, 4)
    base = torch.randn(33, 20, generator=torch.Generator().manual_seed(8)).bfloat16()
    aligned = (base.float() + v).bfloat16()
    exact = aligned.double() - base.double()
    monkeypatch.setattr(subspace, "_BLOCK", block)
    out = torch.empty(33, 20)
    norm = subspace.difference(aligned, base, out)
    assert torch.equal(out, aligned.float() - base.float())
    found = subspace.similarity(subspace.fold(a, b), aligned, base)
    assert (norm, found.norm_v) == pytest.approx((float(exact.norm()),) * 2, rel=1e-6)
    assert found.rho == pytest.approx(dense_rho(b.double() @ a.double(), exact), rel=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e15, 1e25])
def test_the_norm_survives_squares_outside_of_float32(scale: float) -> None:
    v = torch.randn(6, 5, generator=torch.Generator().manual_seed(2)) * scale
    norm = subspace.difference(v, torch.zeros_like(v), torch.empty(6, 5))
    assert norm == pytest.approx(float(v.double().norm()), rel=1e-6)


def test_degenerate_modules_are_zero_and_flagged() -> None:
    a, b, v = draw(1, 6, 5, 2)
    assert measure(a, b, torch.zeros_like(v)).flags == ("zero_v",)
    assert measure(a, torch.zeros_like(b), v).flags == ("zero_update",)
    assert measure(a, torch.zeros_like(b), torch.zeros_like(v)).flags == ("zero_v", "zero_update")
    outside = torch.zeros(6, 2)
    outside[5] = 1
    v[5] = 0  # the update lives in the one output that alignment did not touch
    found = measure(a, outside, v)
    assert (found.rho, found.flags) == (0.0, ("zero_projection",))


@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_nan_and_infinite_weights_show_in_the_norm(bad: str) -> None:
    a, b, _ = draw(4, 4, 4, 2)
    base = torch.zeros(4, 4)
    base[2, 1] = float(bad)
    assert not math.isfinite(subspace.difference(torch.ones(4, 4), base, torch.empty(4, 4)))
    assert not math.isfinite(subspace.similarity(subspace.fold(a, b), torch.ones(4, 4), base).norm_v)


@settings(deadline=None)
@given(seeds, sizes, sizes, st.integers(1, 6))
def test_projection_is_c_times_dw(seed: int, d_out: int, d_in: int, rank: int) -> None:
    a, b, v = draw(seed, d_out, d_in, rank)
    wide = v.double()
    expected = wide @ wide.T @ b.double() @ a.double() / wide.norm()
    found = subspace.project(b, v, float(wide.norm())).double() @ a.double()
    assert (found - expected).norm() <= 1e-5 * (wide.norm() * b.norm() * a.norm())


@pytest.mark.parametrize("project", [lambda b, v: subspace.project(b, v, 0.0), subspace.project_orthogonal])
def test_without_a_subspace_there_is_nothing_to_project_onto(project: Projection) -> None:
    b = torch.ones(3, 2)
    assert torch.equal(project(b, torch.zeros(3, 4)), b)


SHAPES = [(12, 30), (30, 12), (20, 20)]  # wide, tall, square


def low_rank(d_out: int, d_in: int, rank: int = 3) -> torch.Tensor:
    """V as a LoRA leaves it, in float32."""
    a, b, _ = draw(d_out, d_out, d_in, rank)
    return b @ a


def leading(v: torch.Tensor, energy: float) -> torch.Tensor:
    """U U^T by torch's SVD in float64: the definition."""
    u, s, _ = torch.linalg.svd(v.double(), full_matrices=False)
    share = (s**2).cumsum(0) / (s**2).sum()
    kept = min(int((s > 1e-5 * s[0]).sum()), 1 + int((share < energy).sum()))
    return u[:, :kept] @ u[:, :kept].T


@pytest.mark.parametrize("energy", [0.3, 0.8, 0.99, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [None, 3])
def test_the_orthogonal_projector_is_that_of_an_svd(
    shape: tuple[int, int], energy: float, rank: int | None
) -> None:
    _, b, full = draw(6, *shape, 4)
    v = full if rank is None else low_rank(*shape, rank)
    found = subspace.project_orthogonal(b, v, energy)
    torch.testing.assert_close(found.double(), leading(v, energy) @ b.double(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(subspace.project_orthogonal(found, v, energy), found, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("shape", [(12, 30), (20, 20)])
def test_the_orthogonal_projector_onto_a_v_of_full_rank_changes_nothing(shape: tuple[int, int]) -> None:
    _, b, v = draw(8, *shape, 4)
    torch.testing.assert_close(subspace.project_orthogonal(b, v, 1.0), b, atol=1e-6, rtol=1e-5)
    assert subspace.project_orthogonal(b, v, 0.5).norm() < 0.95 * b.norm()


@pytest.mark.parametrize("shape", SHAPES)
def test_an_update_inside_of_the_subspace_keeps_its_length_and_one_outside_goes(
    shape: tuple[int, int],
) -> None:
    """Whatever the size of V is; C, in contrast, shrinks the one inside with it."""
    v = low_rank(*shape)
    inside = v @ torch.randn(shape[1], 4, generator=torch.Generator().manual_seed(1))
    for scale in (1.0, 1e-3):
        found = subspace.project_orthogonal(inside, v * scale)
        torch.testing.assert_close(found, inside, atol=1e-5, rtol=1e-5)
    norm = float(v.norm())
    whole, small = subspace.project(inside, v, norm), subspace.project(inside, v * 1e-3, norm * 1e-3)
    torch.testing.assert_close(small, whole * 1e-3)
    outside = (torch.ones_like(inside).double() - leading(v, 1.0) @ torch.ones_like(inside).double()).float()
    assert subspace.project_orthogonal(outside, v).norm() < 1e-5 * outside.norm()


@pytest.mark.parametrize("shape", [(12, 300), (300, 12)])
def test_the_gram_matrix_is_that_of_the_smaller_side(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda m: (sizes.append((*m.shape, m.dtype)), eigh(m))[1])
    monkeypatch.setattr(subspace, "_ROWS", 7)
    _, b, v = draw(9, *shape, 4)
    found = subspace.project_orthogonal(b, v, 0.9)
    assert sizes == [(12, 12, torch.float64)]
    torch.testing.assert_close(found.double(), leading(v, 0.9) @ b.double(), atol=1e-6, rtol=1e-5)


def test_the_table_is_the_definition(pico: Pico) -> None:
    seen: list[tuple[int, int, str]] = []
    rows = similarity_table(
        base=pico.base, aligned=pico.aligned, adapter=pico.task, progress=lambda *step: seen.append(step)
    )
    base, aligned = load_file(pico.base / "model.safetensors"), load_file(pico.aligned / "model.safetensors")
    task = deltas(pico.task)
    assert [row.module for row in rows] == list(modules())
    assert seen == [(i, 14, row.module) for i, row in enumerate(rows, start=1)]
    for row in rows:
        v = aligned[f"{row.module}.weight"].double() - base[f"{row.module}.weight"].double()
        assert row.rho == pytest.approx(dense_rho(task[row.module], v), abs=1e-6)
        assert row.norm_task == pytest.approx(float(task[row.module].norm()), rel=1e-6)
        assert row.norm_v == pytest.approx(float(v.norm()), rel=1e-6)
