"""What a merge amounts to in weights of the two updates: against plain least squares on the full matrices."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from safemerge.apply import repair_adapter
from safemerge.arithmetic import blend, peft_blend
from safemerge.effective import Effective, effective_weights, middle
from safemerge.selection import Repair
from tests.conftest import Pico

GENERATOR = torch.Generator().manual_seed(3)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=GENERATOR)


def pair(alike: float) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Two updates, 40 x 30 and of rank 4, whose A have about that cosine."""
    a = drawn(4, 30)
    other = alike * a + math.sqrt(1 - alike**2) * drawn(4, 30)
    return (a, drawn(40, 4)), (other, drawn(40, 4))


def released(task: tuple[torch.Tensor, torch.Tensor], safety: tuple[torch.Tensor, torch.Tensor]) -> Effective:
    merged = peft_blend("peft_linear", task, safety, (1.0, 1.0), 0.8, None, torch.Generator())
    found = effective_weights(merged, task, safety)
    full = [(b @ a).flatten().double() for a, b in (task, safety, merged)]
    weights = torch.linalg.lstsq(torch.stack(full[:2], 1), full[2]).solution
    rest = full[2] - torch.stack(full[:2], 1) @ weights
    assert (found.task, found.safety) == pytest.approx(tuple(weights.tolist()), rel=1e-5)
    assert found.rest == pytest.approx(float(rest.norm() / full[2].norm()), rel=1e-4, abs=1e-6)
    return found


def test_alike_a_adds_the_cross_terms_to_the_weights() -> None:
    """With one A the merge is (sqrt .8 B_f + sqrt .2 B_s)(sqrt .8 + sqrt .2) A: 1.2 dW_f + 0.6 dW_s, and nothing else."""
    found = released(*pair(1.0))
    assert (found.task, found.safety) == pytest.approx((1.2, 0.6)) and found.rest < 1e-5
    assert found.cosine_a == pytest.approx(1)
    apart = released(*pair(0.0))
    assert abs(apart.task - 0.8) < 0.1 and abs(apart.safety - 0.2) < 0.1 and apart.rest > 0.3


def test_an_exact_blend_is_its_own_weights() -> None:
    task, safety = pair(0.5)
    found = effective_weights(blend(task, safety, 0.7), task, safety)
    assert (found.task, found.safety, found.rest) == pytest.approx((0.7, 0.3, 0.0), abs=1e-6)


def test_without_two_directions_there_are_no_weights() -> None:
    task, _ = pair(0.0)
    assert math.isnan(effective_weights(task, task, (task[0], 2 * task[1])).task)
    assert math.isnan(effective_weights(task, task, (task[0], 0 * task[1])).task)


def test_the_middle_leaves_out_what_is_unknown() -> None:
    rows = [Effective(1.0, 0.4, 0.1, 0.9), Effective(1.2, 0.6, 0.3, 0.7), Effective(*[math.nan] * 4)]
    assert middle(rows) == Effective(1.1, 0.5, 0.2, 0.8)


@pytest.mark.parametrize(("combine", "told"), [("peft_linear", True), ("exact", False)])
def test_a_repair_reports_it(pico: Pico, tmp_path: Path, combine: str, told: bool) -> None:
    repair = Repair("blend", alpha=0.8, combine=combine)
    names = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.v_proj"]
    info = repair_adapter(
        task=pico.task, safety=pico.safety, selected=names, repair=repair, output=tmp_path / "out"
    )
    assert (info.effective is not None) is told
