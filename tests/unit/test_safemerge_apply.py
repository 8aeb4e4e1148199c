"""What a repair makes of the weights, against dense arithmetic, PEFT's own merges and transformers' logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraModel
from safetensors.torch import load_file

from safemerge import controls, methods, repair_adapter, similarity_table
from safemerge.selection import Repair
from tests.conftest import Pico
from tests.pico import QKV, deltas, modules, write_lora

BLEND = Repair("blend", alpha=0.7)
SOME = ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj")


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.fixture(scope="module")
def peft_model(pico: Pico) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(pico.aligned), pico.task, "task")
    model.load_adapter(str(pico.safety), "safety")
    return model


def test_selected_modules_are_blended_and_the_rest_kept(pico: Pico, tmp_path: Path) -> None:
    info = repair_adapter(
        task=pico.task, safety=pico.safety, selected=SOME, repair=BLEND, output=tmp_path / "out"
    )
    assert (info.merged_modules, info.modules, info.rank, info.notes) == (2, 14, 8, [])
    task, safety, found = deltas(pico.task), deltas(pico.safety), deltas(tmp_path / "out")
    for name, delta in found.items():
        expected = 0.7 * task[name] + 0.3 * safety[name] if name in SOME else task[name]
        assert relative(delta, expected) <= (1e-6 if name in SOME else 0)


@pytest.mark.parametrize(("alpha", "source"), [(1.0, "task"), (0.0, "safety")])
def test_alpha_at_its_ends_gives_an_adapter_back(
    pico: Pico, tmp_path: Path, alpha: float, source: str
) -> None:
    repair_adapter(
        task=pico.task,
        safety=pico.safety,
        selected=tuple(modules()),
        repair=Repair("blend", alpha=alpha),
        output=tmp_path / "out",
    )
    found, expected = deltas(tmp_path / "out"), deltas(getattr(pico, source))
    assert all(relative(found[name], expected[name]) == 0 for name in expected)


@pytest.mark.filterwarnings("ignore:The density 1.0")
@pytest.mark.parametrize("combine", ["peft_linear", "dare_linear", "ties", "dare_ties"])
@pytest.mark.parametrize(("alpha", "density"), [(0.8, 0.5), (0.3, 0.2), (0.5, 1.0)])
def test_peft_combinations_equal_peft(
    pico: Pico,
    peft_model: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    combine: str,
    alpha: float,
    density: float,
) -> None:
    inject = LoraModel.inject_adapter

    def inject_and_seed(*args: Any, **options: Any) -> None:
        inject(*args, **options)  # draws initial weights, which the merge overwrites
        torch.manual_seed(11)

    monkeypatch.setattr(LoraModel, "inject_adapter", inject_and_seed)
    repair_adapter(
        task=pico.task,
        safety=pico.safety,
        selected=tuple(modules()),
        repair=Repair("blend", alpha=alpha, combine=combine, density=density, seed=11),
        output=tmp_path / "out",
    )
    name, kind = "merged", combine.removeprefix("peft_")
    peft_model.add_weighted_adapter(["task", "safety"], [alpha, 1 - alpha], name, kind, density=density)
    try:
        state = peft_model.state_dict()
        for key, tensor in load_file(tmp_path / "out" / "adapter_model.safetensors").items():
            assert torch.equal(tensor, state[key.replace(".weight", f".{name}.weight")]), key
    finally:
        peft_model.delete_adapter(name)


def test_a_seeded_mask_does_not_depend_on_the_selection(pico: Pico, tmp_path: Path) -> None:
    repair = Repair("blend", alpha=0.7, combine="dare_linear", density=0.5, seed=3)
    for selected, name in ((SOME, "some"), (tuple(modules()), "all")):
        repair_adapter(
            task=pico.task, safety=pico.safety, selected=selected, repair=repair, output=tmp_path / name
        )
    some, everything = deltas(tmp_path / "some"), deltas(tmp_path / "all")
    assert all(torch.equal(some[name], everything[name]) for name in SOME)


def test_projection_is_c_times_dw(pico: Pico, tmp_path: Path) -> None:
    repair_adapter(
        task=pico.task,
        safety=None,
        selected=SOME,
        repair=Repair("project"),
        output=tmp_path / "out",
        base=pico.base,
        aligned=pico.aligned,
    )
    base, aligned = load_file(pico.base / "model.safetensors"), load_file(pico.aligned / "model.safetensors")
    task, found = deltas(pico.task), deltas(tmp_path / "out")
    for name in found:
        v = aligned[f"{name}.weight"].double() - base[f"{name}.weight"].double()
        assert relative(found[name], v @ v.T @ task[name] / v.norm() if name in SOME else task[name]) <= 2e-6


def test_add_scale_and_drop(pico: Pico, tmp_path: Path) -> None:
    task, safety = deltas(pico.task), deltas(pico.safety)
    expected = {
        Repair("add", gamma=0.5): lambda name: task[name] + 0.5 * safety[name],
        Repair("scale", alpha=0.25): lambda name: 0.25 * task[name],
        Repair("drop"): lambda name: 0 * task[name],
        Repair("keep"): lambda name: task[name],
    }
    for repair, delta in expected.items():
        repair_adapter(
            task=pico.task,
            safety=pico.safety,
            selected=tuple(modules()),
            repair=repair,
            output=tmp_path / repair.kind,
        )
        for name, found in deltas(tmp_path / repair.kind).items():
            assert (found - delta(name)).norm() <= 1e-6 * task[name].norm()


def test_different_ranks_scalings_and_patterns_merge_exactly(tmp_path: Path) -> None:
    odd = "model.layers.1.self_attn.v_proj"
    task = write_lora(tmp_path / "task", rank=3, alpha=5, seed=1, use_rslora=True, dtype=torch.float32)
    safety = write_lora(
        tmp_path / "safety",
        rank=6,
        alpha=9,
        seed=2,
        ranks={odd: 2},
        rank_pattern={odd: 2},
        alpha_pattern={odd: 7},
    )
    info = repair_adapter(
        task=task, safety=safety, selected=tuple(modules()), repair=BLEND, output=tmp_path / "out"
    )
    assert info.rank == 9
    mine, other, found = deltas(task), deltas(safety), deltas(tmp_path / "out")
    assert all(relative(found[name], 0.7 * mine[name] + 0.3 * other[name]) <= 1e-6 for name in mine)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (9, 9, False)
    assert {tensor.shape[0] for key, tensor in _tensors(tmp_path / "out") if "lora_A" in key} == {9}


def test_modules_of_one_adapter_only_follow_the_rule_and_are_listed(tmp_path: Path) -> None:
    task = write_lora(tmp_path / "task", shapes=modules(QKV[:2]), seed=1)
    safety = write_lora(tmp_path / "safety", shapes=modules(QKV[1:]), seed=2)
    q, v = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.v_proj"
    selected = tuple(modules(QKV[:2]))
    info = repair_adapter(task=task, safety=safety, selected=selected, repair=BLEND, output=tmp_path / "out")
    assert info.merged_modules == 2
    assert f"{q}: in the task adapter only, selected but not repaired, kept" in info.notes
    assert f"{v}: in the safety adapter only, left out" in info.notes
    found = deltas(tmp_path / "out")
    assert set(found) == set(selected)
    assert torch.equal(found[q], deltas(task)[q])
    assert q in (tmp_path / "out" / "README.md").read_text()


def test_truncation_reports_its_error(pico: Pico, tmp_path: Path) -> None:
    repair = Repair("blend", alpha=0.7, rank=4)
    info = repair_adapter(
        task=pico.task, safety=pico.safety, selected=SOME, repair=repair, output=tmp_path / "out"
    )
    assert info.rank == 4
    task, safety, found = deltas(pico.task), deltas(pico.safety), deltas(tmp_path / "out")
    errors = [relative(found[name], 0.7 * task[name] + 0.3 * safety[name]) for name in SOME]
    assert info.svd_error == pytest.approx(max(errors), rel=1e-4)


def test_logits_in_peft_equal_dense_deltas(pico: Pico, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    repair_adapter(task=pico.task, safety=pico.safety, selected=SOME, repair=BLEND, output=tmp_path / "out")
    task, safety = deltas(pico.task), deltas(pico.safety)
    reference = AutoModelForCausalLM.from_pretrained(pico.aligned).double()
    with torch.no_grad():
        for name, delta in task.items():
            wanted = 0.7 * delta + 0.3 * safety[name] if name in SOME else delta
            reference.get_submodule(name).weight += wanted
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(pico.aligned), tmp_path / "out")
    ids = torch.arange(40).view(2, 20)
    with torch.no_grad():
        found, expected = model(ids).logits.double(), reference(ids).logits
        untouched = AutoModelForCausalLM.from_pretrained(pico.aligned)(ids).logits.double()
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert relative(untouched, expected) > 0.1  # the adapter is really in use


def test_every_method_runs_end_to_end(pico: Pico, tmp_path: Path) -> None:
    rows = similarity_table(base=pico.base, aligned=pico.aligned, adapter=pico.task)
    points = [
        *methods.safemerge(tau=["q0.25", "q0.75"], alpha=[0.5, 0.8]),
        *methods.safelora(k=3),
        *methods.resta(gamma=0.5, dare_density=0.5),
        *methods.scale(alpha=0.5),
        *controls.random_k(like="q0.5", alpha=0.8, combine="ties", density=0.5),
        *controls.by_layer(layers="1", alpha=0.8),
    ]
    counts = []
    for index, point in enumerate(points):
        info = repair_adapter(
            task=pico.task,
            safety=pico.safety if point.needs_safety else None,
            selected=methods.select(rows, point.selection),
            repair=point.repair,
            output=tmp_path / str(index),
            base=pico.base,
            aligned=pico.aligned,
        )
        counts.append(info.merged_modules)
    assert counts == [4, 4, 10, 10, 3, 14, 14, 7, 7]


def _tensors(folder: Path) -> list[tuple[str, torch.Tensor]]:
    return list(load_file(folder / "adapter_model.safetensors").items())
