"""SafeLoRA's projections and RESTA's addition, written as adapters: against dense arithmetic, with what they report."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import safemerge
from safemerge import arithmetic, methods, repair_adapter, similarity_table
from safemerge.adapters import load_adapter
from safemerge.cli import main
from safemerge.methods import select
from safemerge.selection import Repair
from tests.conftest import Pico
from tests.pico import deltas, modules, write_lora

SOME = ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj", "model.layers.1.mlp.up_proj")
OFFICIAL = Repair("project")
ORTHOGONAL = Repair("project", projector="orthogonal", energy=0.5)


def differences(pico: Pico) -> dict[str, torch.Tensor]:
    """V of every module, in float64."""
    base, aligned = load_file(pico.base / "model.safetensors"), load_file(pico.aligned / "model.safetensors")
    return {name: aligned[f"{name}.weight"].double() - base[f"{name}.weight"].double() for name in modules()}


def official(v: torch.Tensor) -> torch.Tensor:
    return v @ v.T / v.norm()


def onto_half(v: torch.Tensor) -> torch.Tensor:
    u, s, _ = torch.linalg.svd(v, full_matrices=False)
    kept = 1 + int(((s**2).cumsum(0) < 0.5 * (s**2).sum()).sum())
    return u[:, :kept] @ u[:, :kept].T


@pytest.mark.parametrize(("repair", "matrix"), [(OFFICIAL, official), (ORTHOGONAL, onto_half)])
def test_a_projection_reports_how_far_it_shrinks_its_updates(
    pico: Pico, tmp_path: Path, repair: Repair, matrix: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    out = tmp_path / "out"
    models = {"base": pico.base, "aligned": pico.aligned}
    info = repair_adapter(task=pico.task, safety=None, selected=SOME, repair=repair, output=out, **models)
    task, found, shrinks = deltas(pico.task), deltas(out), []
    for name, v in differences(pico).items():
        expected = matrix(v) @ task[name] if name in SOME else task[name]
        assert (found[name] - expected).norm() <= 2e-6 * task[name].norm()
        shrinks += [float(expected.norm() / task[name].norm())] if name in SOME else []
    assert info.shrink == pytest.approx(statistics.median(shrinks), rel=1e-4)
    card = (out / "README.md").read_text()
    assert f"(median) | {info.shrink:.2g} |" in card and f"| projector | {repair.projector} |" in card
    assert ("| energy | 0.5 |" in card) is (repair is ORTHOGONAL)


def test_the_official_shrink_is_that_of_the_similarity_table(pico: Pico, tmp_path: Path) -> None:
    models = {"base": pico.base, "aligned": pico.aligned}
    point = methods.safelora(tau="q0.5")[0]
    done = safemerge.repair(**models, task_adapter=pico.task, output=tmp_path / "out", point=point)
    rows = [row for row in done.rows if row.module in done.selected]
    assert len(rows) == 7
    assert done.shrink == pytest.approx(
        statistics.median(r.norm_projected / r.norm_task for r in rows), rel=1e-4
    )
    blended = safemerge.repair(
        **models, task_adapter=pico.task, safety_adapter=pico.safety, output=tmp_path / "blended"
    )
    assert blended.shrink is None


def test_the_command_projects_either_way_and_says_how_far_it_shrank(
    pico: Pico, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = ["--base", str(pico.base), "--aligned", str(pico.aligned), "--task-adapter", str(pico.task)]
    for name, more in (("official", []), ("orthogonal", ["--energy", "0.5"])):
        command = ["repair", *sources, "--method", "safelora", "--k", "3", "--projector", name, *more]
        assert main([*command, "--output", str(tmp_path / name)]) == 0
        assert "the projection multiplied the length of its updates by 0." in capsys.readouterr().out
    found, other = deltas(tmp_path / "official"), deltas(tmp_path / "orthogonal")
    assert sum(not torch.equal(found[name], other[name]) for name in found) == 3


@pytest.fixture
def half_aligned(pico: Pico, tmp_path: Path) -> Path:
    """The aligned model, but for one module that alignment did not change."""
    folder = tmp_path / "half"
    folder.mkdir()
    (folder / "config.json").write_bytes((pico.aligned / "config.json").read_bytes())
    base, aligned = (load_file(path / "model.safetensors") for path in (pico.base, pico.aligned))
    name = f"{SOME[0]}.weight"
    save_file({**aligned, name: base[name]}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("repair", [OFFICIAL, ORTHOGONAL])
def test_a_module_that_alignment_did_not_change_keeps_its_update(
    pico: Pico, tmp_path: Path, half_aligned: Path, repair: Repair
) -> None:
    adapter = write_lora(tmp_path / "task", seed=1)
    models = {"base": pico.base, "aligned": half_aligned}
    out = tmp_path / "out"
    info = repair_adapter(task=adapter, safety=None, selected=SOME, repair=repair, output=out, **models)
    assert torch.equal(deltas(out)[SOME[0]], deltas(adapter)[SOME[0]])
    assert info.selected == sorted(SOME[1:]) and info.merged_modules == 2
    assert info.notes == [f"{SOME[0]}: selected but not repaired, alignment did not change it, kept"]
    rows = similarity_table(**models, adapter=adapter)
    assert SOME[0] not in select(rows, methods.safelora(tau=1)[0].selection)
    alone = repair_adapter(
        task=adapter, safety=None, selected=SOME[:1], repair=repair, output=tmp_path / "alone", **models
    )
    assert alone.shrink is None and "(median)" not in (tmp_path / "alone" / "README.md").read_text()


def resta(pico: Pico, output: Path, density: float | None, **knobs: object) -> dict[str, torch.Tensor]:
    repair = methods.resta(gamma=0.5, dare_density=density, seed=3 if density else 0)[0].repair
    selected = knobs.get("selected", tuple(modules()))
    repair_adapter(task=pico.task, safety=pico.safety, selected=selected, repair=repair, output=output)  # type: ignore[arg-type]
    return deltas(output)


def test_resta_drops_entries_of_the_fine_tuned_update_and_adds_the_safety_vector_whole(
    pico: Pico, tmp_path: Path
) -> None:
    """Bhardwaj et al. 2024; entries of the safety LoRA were dropped instead."""
    found, safety = resta(pico, tmp_path / "out", 0.5), deltas(pico.safety)
    adapter = load_adapter(pico.task)
    generator = torch.Generator().manual_seed(3)
    for name, module in adapter.modules.items():
        a, b = arithmetic.dare((module.a, module.b * module.scaling), 0.5, generator)
        expected = b.double() @ a.double() + 0.5 * safety[name]
        assert (found[name] - expected).norm() <= 1e-6 * expected.norm()


def test_what_resta_drops_does_not_depend_on_the_selection(pico: Pico, tmp_path: Path) -> None:
    some, whole = resta(pico, tmp_path / "some", 0.5, selected=SOME), resta(pico, tmp_path / "all", 0.5)
    task = deltas(pico.task)
    assert all(torch.equal(some[name], whole[name] if name in SOME else task[name]) for name in task)
    assert json.loads((tmp_path / "all" / "adapter_config.json").read_text())["r"] == 8


def test_resta_below_tau_is_safemerges_selection_with_its_own_repair() -> None:
    own, other = methods.resta(gamma=[0.3, 0.5], tau=["q0.5"]), methods.safemerge(tau="q0.5", alpha=0.8)
    assert {point.selection for point in own} == {other[0].selection}
    assert [point.repair for point in own] == [point.repair for point in methods.resta(gamma=[0.3, 0.5])]
    assert len({point.label for point in [*own, *methods.resta(gamma=[0.3, 0.5])]}) == 4


def test_without_dare_resta_adds_the_two(pico: Pico, tmp_path: Path) -> None:
    found, task, safety = resta(pico, tmp_path / "out", None), deltas(pico.task), deltas(pico.safety)
    assert all((found[n] - task[n] - 0.5 * safety[n]).norm() <= 1e-6 * task[n].norm() for n in task)
