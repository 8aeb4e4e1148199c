"""Adapters that are no LoRA, or have malformed settings, are named in one line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from safemerge import load_adapter
from safemerge.errors import UserError
from tests.pico import HIDDEN, save_pair, write_lora
from tests.unit.foreign import (
    LFS,
    P,
    Pair,
    Q,
    configured,
    copied,
    rekeyed,
    written,
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(*save_pair(tmp_path_factory.mktemp("pair")))


def mlx(folder: Path) -> Path:
    config = {
        "fine_tune_type": "lora",
        "num_layers": 16,
        "lora_parameters": {"rank": 8, "scale": 20.0},
        "model": "x/y",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").rename(folder / "adapters.safetensors")
    return folder


def keyed(a: str, b: str) -> Callable[[Path], Path]:
    return lambda folder: rekeyed(folder, lambda k: k.replace("lora_A.weight", a).replace("lora_B.weight", b))


def moved_into(name: str) -> Callable[[Path], Path]:
    def change(folder: Path) -> Path:
        inside = folder / name
        inside.mkdir()
        for file in list(folder.glob("adapter_*")):
            file.rename(inside / file.name)
        return folder

    return change


KINDS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "MLX": (mlx, "is an MLX adapter"),
    "MLX keys": (keyed("lora_a", "lora_b"), r"\(MLX\)"),
    "LyCORIS LoKr keys": (keyed("lokr_w1", "lokr_w2"), r"\(LoKr, as LyCORIS"),
    "LyCORIS LoHa keys": (keyed("hada_w1_a", "hada_w1_b"), r"\(LoHa, as LyCORIS"),
    "kohya keys": (keyed("lora_down.weight", "lora_up.weight"), r"\(kohya"),
    "no peft_type": (lambda f: configured(f, peft_type=...), "has no peft_type"),
    "weights alone": (written("x", b"", "adapter_config.json"), "has no adapter_config.json; copy it too"),
    "a whole model": (lambda f: copied(f.parent / "aligned", f / "model"), "it is a whole model"),
    "a trainer's folder": (moved_into("checkpoint-500"), "give one of the adapters in it: checkpoint-500"),
    "a pointer": (
        written("adapter_model.safetensors", LFS),
        "model.safetensors is a git-lfs pointer.*git lfs pull",
    ),
    "a config's pointer": (written("adapter_config.json", LFS), "adapter_config.json is a git-lfs pointer"),
    "a .bin pointer": (
        written("adapter_model.bin", LFS, "adapter_model.safetensors"),
        "adapter_model.bin is a git-lfs pointer",
    ),
}
OTHERS = {
    "LOKR": "LoKr: Kronecker", "LOHA": "LoHa: Hadamard", "IA3": "IA3: it rescales", "ADALORA": "AdaLoRA", "VERA": "VeRA",
    "PREFIX_TUNING": "prefix tuning: it adds", "PROMPT_TUNING": "prompt tuning", "P_TUNING": "p-tuning", "OFT": "OFT",
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_methods_of_peft_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"is a {name} adapter \({OTHERS[name]}"):
        load_adapter(configured(write_lora(tmp_path / "lora"), peft_type=name))


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_are_named(pair: Pair, tmp_path: Path, kind: str) -> None:
    change, message = KINDS[kind]
    copied(pair.aligned, tmp_path / "aligned")
    with pytest.raises(UserError, match=message) as error:
        load_adapter(change(write_lora(tmp_path / "lora")))
    assert "\n" not in str(error.value)


WHOLE, NUMBER, PATTERNS = (
    "not a whole number above 0",
    "not a number",
    "not an object of patterns and numbers",
)
CONFIGS: list[tuple[dict[str, Any], str]] = [
    *(({"r": value}, rf"r={re.escape(repr(value))} .* is {WHOLE}") for value in (None, "4", "x", 0, -4, 4.0, True, [4])),
    *(({"lora_alpha": value}, NUMBER) for value in (None, "8", float("nan"), float("inf"), 10**400, [8], False)),
    *(({name: value}, PATTERNS) for name in ("rank_pattern", "alpha_pattern") for value in ([], [4], "q_proj", 4)),
    ({"rank_pattern": {"*.q_proj": 4}}, r"rank_pattern='\*\.q_proj' .* is not a regular expression .*such as \.\*q_proj"),
    ({"alpha_pattern": {"(": 4}}, "not a regular expression"),
    ({"rank_pattern": {"q_proj": None}}, rf"rank_pattern q_proj=None .* is {WHOLE}"),
    ({"alpha_pattern": {"q_proj": "8"}}, rf"alpha_pattern q_proj='8' .* is {NUMBER}"),
    ({"peft_type": ["LORA"]}, r"is a \['LORA'\] adapter"),
    ({"peft_type": {"a": 1}}, "is a .* adapter"),
    *(({"base_model_name_or_path": its}, "not a model's name") for its in (3, ["x"], {}, "a\0", "\x1b[2J", "x" * 5000)),
    ({"bias": ["none"]}, r"bias=\['none'\]"),
    ({"bias": None}, "bias=None"),
    ({"init_lora_weights": [1]}, "init_lora_weights=.* is not a name, true or false"),
    ({"use_rslora": "yes"}, "use_rslora='yes' .* is not true or false"),
    ({"modules_to_save": "x" * 1000}, r"modules_to_save=x+\.\.\.: "),
]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"), CONFIGS, ids=[str(settings)[:40] for settings, _ in CONFIGS]
)
def test_malformed_settings_are_one_line(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        load_adapter(configured(write_lora(tmp_path / "lora", shapes={Q: (HIDDEN, HIDDEN)}), **settings))
    assert len(str(error.value)) < 400 and str(error.value).isprintable()


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 9, b"[]", b"null", b"[" * 100_000, '{"r": 4}'.encode("utf-16")], ids=str
)
def test_files_that_are_no_config_are_one_line(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UserError, match=r"adapter_config\.json") as error:
        load_adapter(written("adapter_config.json", content)(write_lora(tmp_path / "lora")))
    assert "\n" not in str(error.value)


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "lora")
    content = (lora / "adapter_config.json").read_bytes()
    assert Q in load_adapter(written("adapter_config.json", b"\xef\xbb\xbf" + content)(lora)).modules


def test_null_settings_are_those_that_are_left_out(tmp_path: Path) -> None:
    lora = write_lora(
        tmp_path / "lora",
        rank_pattern=None,
        alpha_pattern=None,
        use_rslora=None,
        base_model_name_or_path=None,
    )
    assert load_adapter(lora).modules[Q].scaling == 2


def test_a_pickle_of_something_else_is_refused(tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "lora")
    tensors = load_file(lora / "adapter_model.safetensors")
    (lora / "adapter_model.safetensors").unlink()
    for content in ([1], {"state_dict": tensors}, {1: torch.ones(2)}):
        torch.save(content, lora / "adapter_model.bin")
        with pytest.raises(UserError, match="holds something else than tensors by name"):
            load_adapter(lora)
    torch.save(tensors, lora / "adapter_model.bin", _use_new_zipfile_serialization=False)
    assert torch.equal(load_adapter(lora).modules[Q].a, tensors[f"{P}{Q}.lora_A.weight"])
    save_file(tensors, lora / "adapter_model.safetensors")
