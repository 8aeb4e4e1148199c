"""Full-parameter fine-tunes: the same numbers and weights as a LoRA's, in the layout of the model that came in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import safemerge
from safemerge import controls, export_model, methods
from safemerge.checkpoints import Checkpoint
from safemerge.selection import Point
from tests.pico import LAYERS, QKV, VOCAB, modules, peak_of_buffers
from tests.unit.full_pair import Pair, change, make_pair, resave, weights

POINTS = {
    "safemerge": methods.safemerge(tau="q0.5", alpha=0.7)[0],
    "full": methods.full(alpha=0.4)[0],
    "resta": methods.resta(gamma=0.5)[0],
    "scale": methods.scale(alpha=0.6)[0],
    "random": controls.random_k(k=5, alpha=0.7, seed=3)[0],
    "highest": controls.ranked_k(by="highest", like="q0.25", alpha=0.7)[0],
    "safelora": methods.safelora(tau="q0.5")[0],
    "safelora_orthogonal": methods.safelora(k=5, projector="orthogonal", energy=0.8)[0],
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("full"))


@pytest.mark.parametrize("kinds", [None, QKV])
def test_rho_is_that_of_the_lora(tmp_path: Path, kinds: tuple[str, ...] | None) -> None:
    """And only modules that fine-tuning changed have a row, as with a LoRA on some of them."""
    pair = make_pair(tmp_path, None if kinds is None else modules(kinds))
    expected = safemerge.similarity(**pair.models, task_adapter=pair.task_lora)
    found = safemerge.similarity(**pair.models, task_model=pair.task)
    assert [row.module for row in found] == [row.module for row in expected]
    for left, right in zip(found, expected, strict=True):
        assert left.rho == pytest.approx(right.rho, abs=1e-5)
        assert (left.norm_task, left.norm_v, left.norm_projected) == pytest.approx(
            (right.norm_task, right.norm_v, right.norm_projected), rel=1e-5
        )


@pytest.mark.parametrize("safety", ["safety_model", "safety_adapter"])
@pytest.mark.parametrize("name", POINTS)
def test_the_merged_weights_are_those_of_the_lora(pair: Pair, tmp_path: Path, name: str, safety: str) -> None:
    point = POINTS[name]
    lora = safemerge.repair(**pair.loras, output=tmp_path / "lora", point=point)
    export_model(aligned=pair.aligned, adapter=tmp_path / "lora", output=tmp_path / "expected")
    sources = {**pair.models, "task_model": pair.task, safety: pair.full.get(safety, pair.safety_lora)}
    found = safemerge.repair(**sources, output=tmp_path / "found", point=point)
    assert found.selected == lora.selected
    assert found.rounding is None  # float32 is what it is computed in
    assert len(found.selected) > 0
    ours, theirs, task = weights(tmp_path / "found"), weights(tmp_path / "expected"), weights(pair.task)
    for tensor in theirs:
        assert (ours[tensor] - theirs[tensor]).norm() <= 1e-5 * theirs[tensor].norm(), tensor
        repaired = tensor.removesuffix(".weight") in found.selected
        assert torch.equal(ours[tensor], task[tensor]) != repaired, tensor
    assert (found.shrink is None) == (lora.shrink is None)
    if lora.shrink is not None:
        assert found.shrink == pytest.approx(lora.shrink, rel=1e-4)


def test_the_output_has_the_layout_of_the_task_model(pair: Pair, tmp_path: Path) -> None:
    """Shards, index, dtypes and companions; what is not selected byte for byte; and transformers loads it."""
    from transformers import AutoModelForCausalLM

    task = resave(pair.task, tmp_path / "task", torch.bfloat16, max_shard_size="15KB")
    for name in ("tokenizer.json", "modeling_own.py", "vocab.txt", "training_args.bin", ".cache"):
        (task / name).write_text(name)
    out = tmp_path / "out"
    found = safemerge.repair(**pair.models, task_model=task, safety_model=pair.safety, output=out, tau="q0.5")
    names = {path.name for path in task.iterdir()} - {"training_args.bin", ".cache"}
    assert {path.name for path in out.iterdir()} == names | {"README.md", "similarity.csv"}
    assert len(list(out.glob("*.safetensors"))) > 2
    for name in names:
        if not name.endswith(".safetensors"):
            assert (out / name).read_bytes() == (task / name).read_bytes()
    old, new, aligned, safety = (weights(folder) for folder in (task, out, pair.aligned, pair.safety))
    assert len(found.selected) == len(found.rows) // 2
    for tensor, value in old.items():
        assert new[tensor].dtype == torch.bfloat16
        module = tensor.removesuffix(".weight")
        if module not in found.selected:
            assert torch.equal(new[tensor], value)
            continue
        delta = 0.8 * (value.float() - aligned[tensor]) + 0.2 * (safety[tensor] - aligned[tensor])
        torch.testing.assert_close(new[tensor], (aligned[tensor] + delta).bfloat16(), atol=1e-5, rtol=8e-3)
    loaded = AutoModelForCausalLM.from_pretrained(out)
    assert torch.equal(loaded.model.layers[1].mlp.up_proj.weight, new["model.layers.1.mlp.up_proj.weight"])
    assert found.rounding is not None
    assert 0.001 < found.rounding < 0.1


def test_the_card_says_what_was_done_and_what_was_kept(pair: Pair, tmp_path: Path) -> None:
    embeddings = torch.ones(VOCAB + 2, 32)
    task = change(pair.task, tmp_path / "task", **{"model.embed_tokens.weight": embeddings})
    out = tmp_path / "out"
    found = safemerge.repair(**{**pair.full, "task_model": task}, output=out, tau="q0.5", alpha=0.6)
    card = (out / "README.md").read_text()
    for expected in (
        "# safemerge-repaired model",
        "library_name: transformers",
        "| tau setting | q0.5 |",
        "| alpha | 0.6 |",
        "7 of 14",
        f"| safety model | {pair.safety} | `{Checkpoint(pair.safety).fingerprint()}` |",
        "- `model.embed_tokens.weight`: 1, 1 unlike",
        f"- `model.layers.*.input_layernorm.weight`: {LAYERS}, 0 unlike",
        "- `lm_head.weight`: 1, 0 unlike",
        found.selected[0],
    ):
        assert expected in card
    assert "rank" not in card.split("## Sources")[0]
    assert "model.embed_tokens.weight" in found.notes[0]
    assert safemerge.read_table(out / "similarity.csv") == found.rows
    assert torch.equal(weights(out)["model.embed_tokens.weight"], embeddings)


def test_the_head_is_measured_where_asked_for(pair: Pair, tmp_path: Path) -> None:
    head = load_file(pair.task / "model.safetensors")["lm_head.weight"]
    task = change(pair.task, tmp_path / "task", **{"lm_head.weight": head + 0.001})
    sources = {**pair.models, "task_model": task}
    assert "lm_head" not in {row.module for row in safemerge.similarity(**sources)}
    assert "lm_head" in {row.module for row in safemerge.similarity(**sources, lm_head=True)}
    done = safemerge.repair(**sources, lm_head=True, output=tmp_path / "o", point=methods.scale(alpha=0.5)[0])
    assert "lm_head" in done.selected
    torch.testing.assert_close(weights(tmp_path / "o")["lm_head.weight"], head + 0.0005)


def test_dare_drops_entries_of_the_update_whatever_the_shards(pair: Pair, tmp_path: Path) -> None:
    point = methods.resta(gamma=0.5, dare_density=0.3, seed=4)[0]
    safemerge.repair(**pair.full, output=tmp_path / "one", point=point)
    many = resave(pair.task, tmp_path / "many", torch.float32, max_shard_size="30KB")
    safemerge.repair(**{**pair.full, "task_model": many}, output=tmp_path / "two", point=point)
    one, two, task, safety, aligned = (
        weights(folder)
        for folder in (tmp_path / "one", tmp_path / "two", pair.task, pair.safety, pair.aligned)
    )
    kept = total = 0
    for module in modules():
        name = f"{module}.weight"
        assert torch.equal(one[name], two[name])
        update = task[name] - aligned[name]
        thinned = one[name] - aligned[name] - 0.5 * (safety[name] - aligned[name])
        here = thinned.abs() > update.abs()
        torch.testing.assert_close(thinned[here], update[here] / 0.3, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(thinned[~here], torch.zeros_like(thinned[~here]), atol=1e-6, rtol=0)
        kept, total = kept + int(here.sum()), total + here.numel()
    assert kept / total == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("point", [POINTS["safemerge"], POINTS["safelora"]])
def test_at_most_four_buffers_of_the_largest_module(pair: Pair, tmp_path: Path, point: Point) -> None:
    """One layer is planted that is far larger than all others together."""
    generator = torch.Generator().manual_seed(0)
    name, shape = "model.layers.1.mlp.up_proj.weight", (768, 1024)
    start = 0.02 * torch.randn(shape, generator=generator)
    folders = {}
    for model in ("base", "aligned", "task", "safety"):
        start = start + 0.001 * torch.randn(shape, generator=generator)
        folders[model] = change(getattr(pair, model), tmp_path / model, **{name: start.bfloat16()})
    sources = {"base": folders["base"], "aligned": folders["aligned"], "task_model": folders["task"]}

    def work() -> None:
        safemerge.repair(**sources, safety_model=folders["safety"], output=tmp_path / "out", point=point)

    module = 4 * shape[0] * shape[1]
    assert 2 * module < peak_of_buffers(work) < 4 * module
    assert name.removesuffix(".weight") in (tmp_path / "out" / "similarity.csv").read_text()


def test_the_model_of_a_hub_cache_is_followed_through_its_links(pair: Pair, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in pair.task.iterdir():
        (linked / path.name).symlink_to(path)
    before = (pair.task / "model.safetensors").read_bytes()
    safemerge.repair(**{**pair.full, "task_model": linked}, output=tmp_path / "out", tau=1.1)
    assert not (tmp_path / "out" / "model.safetensors").is_symlink()
    assert (pair.task / "model.safetensors").read_bytes() == before
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "llama"
