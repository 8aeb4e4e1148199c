"""The controls that take the released merge apart: each changes one thing and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra import initialize_config_dir

from pipeline.store import Step, Store
from safemerge.adapters import load_adapter
from safemerge.apply import repair_adapter
from safemerge.decompositions import apart, truncated, weighted
from safemerge.errors import UserError
from safemerge.selection import Point
from tests.conftest import Pico
from tests.planning import experiment, with_similarity

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True, scope="module")
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


def updates(folder: Path) -> dict[str, torch.Tensor]:
    return {n: m.scaling * m.b.double() @ m.a.double() for n, m in load_adapter(folder).modules.items()}


def repaired(pico: Pico, point: Point, output: Path) -> tuple[dict[str, torch.Tensor], int]:
    """All modules repaired as the point has it, and the rank."""
    names = list(load_adapter(pico.task).modules)
    info = repair_adapter(
        task=pico.task, safety=pico.safety, selected=names, repair=point.repair, output=output
    )
    return updates(output), info.rank


@pytest.mark.parametrize(("task", "safety"), [(1.12, 0.45), (1.0, 0.45), (0.0, 1.0), (1.0, 0.0), (0.0, 0.5)])
def test_weighted(pico: Pico, tmp_path: Path, task: float, safety: float) -> None:
    (point,) = weighted(tau="q0.5", task_weight=task, safety_weight=safety)
    found, _ = repaired(pico, point, tmp_path / "out")
    ours, theirs = updates(pico.task), updates(pico.safety)
    for name, update in found.items():
        assert torch.allclose(update, task * ours[name] + safety * theirs[name], atol=1e-6), name


def test_truncated_is_the_best_of_that_rank(pico: Pico, tmp_path: Path) -> None:
    (point,) = truncated(tau=0.5, alpha=0.8, rank=4)
    found, rank = repaired(pico, point, tmp_path / "out")
    ours, theirs = updates(pico.task), updates(pico.safety)
    assert rank == 4
    for name, update in found.items():
        whole = 0.8 * ours[name] + 0.2 * theirs[name]
        left, values, right = torch.linalg.svd(whole, full_matrices=False)
        assert torch.allclose(update, left[:, :4] * values[:4] @ right[:4], atol=1e-5), name


def test_their_names_tell_them_apart() -> None:
    points = [
        *weighted(tau="q0.5", task_weight=1.12, safety_weight=0.45),
        *truncated(tau="q0.5", alpha=0.8, rank=8),
        *apart(tau="q0.5", alpha=0.8, combine="peft_linear"),
    ]
    assert [(p.method, p.label) for p in points] == [
        ("weighted", "weighted tau=q0.5 weights=1.12+0.45"),
        ("truncated", "truncated tau=q0.5 alpha=0.8 rank=8"),
        ("apart", "apart tau=q0.5 alpha=0.8 combine=peft_linear"),
    ]
    with pytest.raises(UserError, match="safety_weight=-1 is not a number at least 0"):
        weighted(tau=0.5, task_weight=1, safety_weight=-1)


def test_the_experiment_trains_one_more_safety_lora_and_merges_it_in_its_row_alone(tmp_path: Path) -> None:
    x, store = experiment("experiment=arithmetic", "seed=1"), Store(tmp_path)
    assert set(x.trainings) == {"task", "safety", "safety_apart"}
    # The one that train.role_seeds=apart trains: the store makes it once.
    assert (
        x.adapters["safety_apart"].key
        == experiment("seed=1", "train.role_seeds=apart").adapters["safety"].key
    )
    merged = {
        c.point.method: c.adapter.inputs["safety"].key
        for c in with_similarity(x, store, [0.1, 0.2, 0.3, 0.4])
        if isinstance(c.adapter, Step) and "safety" in c.adapter.inputs
    }
    theirs = merged.pop("apart")
    assert theirs == x.adapters["safety_apart"].key
    assert set(merged) == {"safemerge", "weighted", "truncated"}
    assert set(merged.values()) == {x.adapters["safety"].key}


def test_without_the_control_no_second_safety_lora_is_trained() -> None:
    assert "safety_apart" not in experiment().adapters
