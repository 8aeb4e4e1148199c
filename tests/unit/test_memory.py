"""The memory model on its terms: weights as transformers has them, LoRA as PEFT, activations as autograd keeps them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipeline import memory
from pipeline.memory import Fit
from pipeline.shape import Shape, of_config
from tests.miniatures import models

ROOT = Path(__file__).resolve().parents[2]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SMALL = Shape(
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=320,
)


def model(shape: Shape, dtype: str = "float32") -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = shape.model_dump(exclude={"attention_bias"})
    its = LlamaForCausalLM._from_config(
        LlamaConfig(**sizes), attn_implementation="eager", dtype=getattr(torch, dtype)
    )
    return its.train()


@pytest.mark.parametrize("its", models.ALL, ids=lambda its: its.id)
def test_weights_are_counted_as_transformers_counts_them(its: models.Miniature) -> None:
    if its.config["model_type"] == "gemma2":
        pytest.skip("Gemma 2 has two norms more in each layer, a ten-thousandth of its weights")
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(AutoConfig.for_model(**its.config))
    assert of_config(its.config).parameters == sum(p.numel() for p in made.parameters())


def shapes_of_conf() -> list[Any]:
    found = []
    for path in sorted((ROOT / "conf/model").glob("*.yaml")):
        its = yaml.safe_load(path.read_text())["model"]
        if "shape" in its:
            found.append(pytest.param(its["shape"], float(its["parameters"]), id=path.stem))
    for path in sorted((ROOT / "conf/judge").glob("*.yaml")):
        its = yaml.safe_load(path.read_text())
        if "shape" in its:
            found.append(pytest.param(its["shape"], its["download_gb"] * 1e9 / 2, id=path.stem))
    return found


@pytest.mark.parametrize(("shape", "parameters"), shapes_of_conf())
def test_the_shapes_of_conf_come_to_the_parameters_of_conf(shape: dict[str, Any], parameters: float) -> None:
    assert Shape(**shape).parameters == pytest.approx(parameters, rel=0.01)


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ALL], ids=["q and v", "all"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_are_what_autograd_keeps(dtype: str, targets: list[str]) -> None:
    from peft import LoraConfig, get_peft_model
    from peft.helpers import disable_input_dtype_casting

    fit = Fit(4, targets, dtype, rows=3, length=40)
    causal = model(SMALL, dtype)
    adapted = get_peft_model(causal, LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM"))
    fixed = {p.untyped_storage().data_ptr() for p in adapted.parameters()}
    kept: dict[int, tuple[int, torch.Tensor]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in fixed and tensor.numel() >= 3 * 40:  # the small ones are weights in another dtype
            kept[place] = tensor.untyped_storage().nbytes(), tensor
        return tensor

    ids = torch.randint(0, 320, (3, 40))
    low = dtype != "float32"
    with (
        disable_input_dtype_casting(adapted, active=low),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=low),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        causal.base_model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    seen = sum(size for size, _ in kept.values()) / SMALL.num_hidden_layers
    assert memory.kept_by_layer(SMALL, fit, "cpu") == pytest.approx(seen, rel=0.03)


def test_a_lora_has_the_weights_that_peft_gives_it() -> None:
    from peft import LoraConfig, get_peft_model

    for targets in (["q_proj", "v_proj"], ALL):
        adapted = get_peft_model(model(SMALL), LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM"))
        trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
        assert SMALL.lora_parameters(4, targets) == trained
        need = memory.training(SMALL, Fit(4, targets, "float32", 1, 8), "cpu")
        assert need.terms["LoRA"] + need.terms["gradients"] + need.terms["optimizer"] == 16 * trained


def test_keys_and_values_are_those_of_the_cache() -> None:
    with torch.inference_mode():
        cache = model(SMALL).eval()(torch.zeros(2, 7, dtype=torch.long), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert memory.kv_bytes(SMALL, "float32") * 2 * 7 == held


LLAMA = Shape(**yaml.safe_load((ROOT / "conf/model/llama3.1-8b.yaml").read_text())["model"]["shape"])
PAPER = Fit(8, ["q_proj", "v_proj"], "bfloat16", 8, 1024, checkpointing=True)


def test_fsdp_divides_what_it_shards_and_ddp_nothing() -> None:
    alone = memory.training(LLAMA, PAPER, "gpu").terms
    ddp = memory.training(LLAMA, replace(PAPER, devices=8), "gpu").terms
    fsdp = memory.training(LLAMA, replace(PAPER, devices=8, parallel="fsdp"), "gpu").terms
    for name in ("weights", "LoRA", "gradients", "optimizer"):
        assert ddp[name] == alone[name]
        assert fsdp[name] == pytest.approx(alone[name] / 8, abs=1)
    assert ddp["activations"] == fsdp["activations"] == alone["activations"]
    assert "gathered" in fsdp and "buckets" in ddp and not {"gathered", "buckets"} & set(alone)


def test_checkpointing_keeps_the_entries_and_one_layer() -> None:
    kept = memory.training(LLAMA, PAPER, "gpu").terms["activations"]
    whole = memory.training(LLAMA, replace(PAPER, checkpointing=False), "gpu").terms["activations"]
    one = memory.kept_by_layer(LLAMA, PAPER, "gpu")
    assert whole == 32 * one and kept == 32 * 8 * 1024 * 4096 * 2 + one < whole / 10


def test_tensor_parallel_engines_share_weights_and_caches() -> None:
    def engine(parts: int) -> dict[str, int]:
        return memory.engine(
            LLAMA, dtype="bfloat16", longest=1024, sequences=64, loras=4, rank=16, parts=parts
        ).terms

    for name in ("weights", "LoRA slots", "KV cache"):
        assert engine(4)[name] == pytest.approx(engine(1)[name] / 4, abs=1)
    assert engine(1)["KV cache"] == 64 * 1024 * 2 * 32 * 8 * 128 * 2


def test_the_model_holds_at_the_measured_peaks() -> None:
    """docs/scale/memory.json was measured on a machine like this; the model must not leave what it was checked against."""
    from tests.scale.peaks import Case, error_of

    found = json.loads((ROOT / "docs/scale/memory.json").read_text())["cases"]
    assert len({row["case"]["shape"] for row in found}) >= 6
    for row in found:
        case = Case(**{**row["case"], "targets": tuple(row["case"]["targets"])})
        assert abs(error_of(case, row)) <= 0.15, f"{case}: {error_of(case, row):+.0%}"


def test_a_checkpoint_of_another_format_is_there_twice_while_it_is_converted() -> None:
    def need(stored: str | None, batch: int = 1) -> memory.Need:
        return memory.transformers(
            LLAMA, dtype="float32", batch=batch, prompt=8, new=8, stored=stored, device="cpu"
        )

    assert need("float32").model == need(None).model
    assert need("bfloat16").model == pytest.approx(6 * LLAMA.parameters, rel=0.01)
    held = sum(need(None, 10_000).terms[name] for name in ("KV cache", "logits", "working"))
    assert held > 2 * LLAMA.parameters and need("bfloat16", 10_000).terms["loading"] == 0
