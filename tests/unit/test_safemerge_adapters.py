"""Reading adapters: what is supported is read right, everything else is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from safemerge.adapters import load_adapter
from safemerge.errors import UserError
from tests.pico import modules, write_lora

Q = "model.layers.0.self_attn.q_proj"
KEY = f"base_model.model.{Q}"


def edit(folder: Path, change: Any) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_scaling_follows_peft(tmp_path: Path) -> None:
    plain = load_adapter(write_lora(tmp_path / "plain", rank=4, alpha=8))
    assert plain.modules[Q].scaling == 2
    assert load_adapter(write_lora(tmp_path / "rs", rank=4, alpha=8, use_rslora=True)).modules[Q].scaling == 4
    patterned = write_lora(tmp_path / "p", rank=4, alpha=8, ranks={Q: 2}, rank_pattern={Q: 2},
                           alpha_pattern={"layers.0.self_attn.q_proj": 6, "v_proj": 1})  # fmt: skip
    found = load_adapter(patterned).modules
    assert (found[Q].rank, found[Q].scaling) == (2, 3)
    assert found["model.layers.1.self_attn.v_proj"].scaling == 0.25


def test_modules_come_in_execution_order_with_ten_after_two(tmp_path: Path) -> None:
    adapter = load_adapter(write_lora(tmp_path / "lora", shapes=modules(layers=11)))
    assert list(adapter.modules) == list(modules(layers=11))


def test_bin_files_are_read_without_running_code(tmp_path: Path) -> None:
    folder = write_lora(tmp_path / "lora")
    tensors = load_file(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").unlink()
    torch.save(tensors, folder / "adapter_model.bin")
    assert torch.equal(load_adapter(folder).modules[Q].a, tensors[f"{KEY}.lora_A.weight"])
    torch.save({"x": Path("/")}, folder / "adapter_model.bin")  # any class is refused, harmless or not
    with pytest.raises(UserError, match=r"safely.*save it as safetensors"):
        load_adapter(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_dora": True}, "use_dora=True: DoRA"),
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "lora_only"}, "bias=lora_only"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save=.*lm_head"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"target_parameters": ["x"]}, "target_parameters"),
        ({"fan_in_fan_out": True}, "transposed"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights=pissa_niter_4"),
        ({"peft_type": "LOHA"}, "is a LOHA adapter .*; only LoRA"),
        ({"r": 5}, "has rank 4 but its config says 5"),
    ],
)
def test_variants_are_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    folder = write_lora(tmp_path / "lora")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    with pytest.raises(UserError, match=message):
        load_adapter(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update({f"{KEY}.lora_magnitude_vector.weight": torch.ones(3)}), "DoRA"),
        (
            lambda t: t.update({"base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(3)}),
            "embedding LoRA",
        ),
        (lambda t: t.update({f"{KEY}.lora_B.bias": torch.ones(3)}), "a bias"),
        (lambda t: t.pop(f"{KEY}.lora_A.weight"), f"{Q} in .* has lora_B only"),
        (lambda t: t[f"{KEY}.lora_A.weight"].fill_(float("nan")), rf"{Q} in .* NaN or infinite"),
        (lambda t: t[f"{KEY}.lora_B.weight"][0].fill_(float("inf")), rf"{Q} in .* NaN or infinite"),
        (lambda t: t.update({f"{KEY}.lora_B.weight": torch.ones(32, 5)}), f"{Q} in .* do not fit"),
        (lambda t: t.update({f"{KEY}.lora_B.weight": torch.ones(32, 4, dtype=torch.int8)}), "dtypes"),
        (lambda t: t.clear(), "holds no LoRA weights"),
    ],
)
def test_broken_weights_are_refused_by_name(tmp_path: Path, change: Any, message: str) -> None:
    folder = write_lora(tmp_path / "lora")
    edit(folder, change)
    with pytest.raises(UserError, match=message):
        load_adapter(folder)


def test_missing_and_truncated_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        load_adapter(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"has no adapter_config\.json"):
        load_adapter(tmp_path / "empty")
    folder = write_lora(tmp_path / "lora")
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="is the file complete"):
        load_adapter(folder)
    path.unlink()
    with pytest.raises(UserError, match=r"has no adapter_model\.safetensors"):
        load_adapter(folder)
