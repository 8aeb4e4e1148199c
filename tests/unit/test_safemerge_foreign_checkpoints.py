"""Models as people have them: which weights are read, which are refused, and what an export carries."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from safemerge import Checkpoint, hub
from safemerge.errors import UserError
from safemerge.files import companions, weight_map
from tests.conftest import Pico
from tests.pico import write_lora
from tests.unit.foreign import (
    LFS,
    FakeHub,
    Q,
    Tensors,
    as_bin,
    configured,
    copied,
    rewritten,
    with_stale_index,
)

MODEL = "model.safetensors"
GPTQ = {"quant_method": "gptq"}
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True}


def of_transformers(folder: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).get_submodule(Q).weight.detach()


def without_weights(folder: Path) -> Path:
    (folder / MODEL).unlink()
    return folder


def quantised(names: Callable[[str], str], dtype: torch.dtype, **settings: Any) -> Callable[[Path], Path]:
    """Projections stored in that dtype under these names, with a config that says so."""

    def change(tensors: Tensors) -> Tensors:
        return {names(k) if "proj" in k else k: t.to(dtype) if "proj" in k else t for k, t in tensors.items()}

    return lambda folder: configured(rewritten(folder, change, MODEL), "config.json", **settings)


def index(weight_map: Any) -> Callable[[Path], Path]:
    def change(folder: Path) -> Path:
        (without_weights(folder) / f"{MODEL}.index.json").write_text(json.dumps({"weight_map": weight_map}))
        return folder

    return change


def pointer(name: str) -> Callable[[Path], Path]:
    def change(folder: Path) -> Path:
        (without_weights(folder) / name).write_bytes(LFS)
        return folder

    return change


def renamed(name: str) -> Callable[[Path], Path]:
    def change(folder: Path) -> Path:
        (folder / MODEL).rename(folder / name)
        return folder

    return change


READ: dict[str, Callable[[Path], Path]] = {
    "as it is": lambda f: f,
    "an index whose shards are gone": lambda f: with_stale_index(f, shards=False),
    "a .bin file": as_bin,
    "a .bin file of before torch 1.6": lambda f: as_bin(f, zipped=False),
    "a .bin beside an index whose shards are gone": lambda f: configured_bin(f),
    "a left-over quantization_config": lambda f: configured(f, "config.json", quantization_config=BNB),
    "a left-over quantization_config that is no object": lambda f: configured(
        f, "config.json", quantization_config=[1]
    ),
}


def configured_bin(folder: Path) -> Path:
    (as_bin(folder) / "pytorch_model.bin.index.json").write_text(
        json.dumps({"weight_map": {"x": "gone.bin"}})
    )
    return folder


@pytest.mark.parametrize("case", READ)
def test_the_weights_are_those_that_transformers_takes(pico: Pico, tmp_path: Path, case: str) -> None:
    folder = READ[case](copied(pico.aligned, tmp_path / "model"))
    found = Checkpoint(folder).weight(Q)
    assert torch.equal(found, load_file(pico.aligned / MODEL)[f"{Q}.weight"])
    if "quantization" not in case:  # with which transformers would quantise them on loading
        assert torch.equal(found, of_transformers(folder))


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "two sets of weights": (lambda f: with_stale_index(f, shards=True), "two sets of weights.*transformers reads"),
    "GPTQ": (quantised(lambda k: k.replace(".weight", ".qweight"), torch.int32, quantization_config=GPTQ),
             r"is quantised \(gptq: it has .*qweight\); give the bf16 or fp16 checkpoint"),
    "bitsandbytes": (quantised(lambda k: k, torch.uint8, quantization_config=BNB), r"\(bitsandbytes: .* as uint8\)"),
    "fp8": (quantised(lambda k: k, torch.float8_e4m3fn), r"is quantised \(.* is stored as float8_e4m3fn\)"),
    "MLX": (quantised(lambda k: k, torch.uint32, quantization={"bits": 4}), r"is quantised \(.* is stored as uint32\)"),
    "a pointer": (pointer(MODEL), r"model\.safetensors is a git-lfs pointer.*git lfs pull"),
    "a .bin pointer": (pointer("pytorch_model.bin"), r"pytorch_model\.bin is a git-lfs pointer"),
    "an index's pointer": (pointer(f"{MODEL}.index.json"), r"index\.json is a git-lfs pointer"),
    "an index of null": (index(None), "has no weight_map"),
    "an index of a list": (index(["x"]), "has no weight_map"),
    "an index of numbers": (index({f"{Q}.weight": 3}), f"has 3 as the file of {Q}"),
    "an index that leads elsewhere": (index({f"{Q}.weight": "../secret.safetensors"}), "must be a file beside the index"),
    "shards without an index": (renamed("model-00001-of-00002.safetensors"), "shards without their index"),
    "GGUF": (renamed("model.gguf"), "holds a GGUF file"),
    "nothing": (without_weights, "is it a model folder"),
    "an adapter": (lambda f: write_lora(f / "lora"), "it is an adapter; give the model"),
    "a config of a list": (lambda f: (f / "config.json").write_text("[]") and f, "must hold a JSON object, not a list"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_other_weights_are_refused_in_one_line(pico: Pico, tmp_path: Path, case: str) -> None:
    change, message = REFUSED[case]
    folder = change(copied(pico.aligned, tmp_path / "model"))
    with pytest.raises(UserError, match=message) as error:
        model = Checkpoint(folder)
        assert model.config is not None
        model.weight(Q)
    assert "\n" not in str(error.value)


def test_a_pickle_of_something_else_is_no_model(pico: Pico, tmp_path: Path) -> None:
    folder = without_weights(copied(pico.aligned, tmp_path / "model"))
    torch.save([torch.ones(2)], folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="something else than tensors by name"):
        Checkpoint(folder).weight(Q)


def test_a_quantised_hub_model_names_the_one_it_was_made_from(
    pico: Pico, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeHub(
        monkeypatch,
        {"unsloth/Llama-3.1-8B-bnb-4bit": REFUSED["GPTQ"][0](copied(pico.aligned, tmp_path / "m"))},
    )
    with pytest.raises(UserError, match=r"such as unsloth/llama-3\.1-8b$"):
        Checkpoint("unsloth/Llama-3.1-8B-bnb-4bit").weight(Q)


def test_a_model_in_a_folder_of_a_repository(
    pico: Pico, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeHub(monkeypatch, {"org/many": pico.aligned.parent})
    model = Checkpoint(f"org/many/{pico.aligned.name}@v2")
    assert torch.equal(model.weight(Q), Checkpoint(pico.aligned).weight(Q))
    assert ("org/many", f"aligned/{MODEL}", "v2") in fake.asked
    assert "config.json" in companions(f"org/many/{pico.aligned.name}@v2")


def test_two_sets_of_weights_on_the_hub_are_refused_without_fetching_them(
    pico: Pico, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeHub(
        monkeypatch, {"org/two": with_stale_index(copied(pico.aligned, tmp_path / "two"), shards=True)}
    )
    with pytest.raises(UserError, match="org/two holds two sets of weights"):
        weight_map("org/two")
    assert [name for _, name, _ in fake.asked] == [f"{MODEL}.index.json"]


def test_what_the_hub_knows_of_files_and_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache first, then the hub; where neither tells, nothing is claimed."""
    import huggingface_hub

    class Api:
        def file_exists(self, repo: str, name: str, **_: Any) -> bool:
            if repo == "org/broken":
                raise OSError("no network")
            return name == "there"

        def model_info(self, repo: str) -> Any:
            if repo == "org/broken":
                raise OSError("no network")
            tags = ["base_model:quantized:org/full", "base_model:org/full", "text-generation"]
            return type("Info", (), {"id": "org/new", "tags": tags})

    cached = {"here": "/cache/here", "not": huggingface_hub.file_download._CACHED_NO_EXIST}
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo, name, **_: cached.get(name))
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert [hub.exists(hub.Repo("org/m"), name) for name in ("here", "not", "there", "else")] == [
        True,
        False,
        True,
        False,
    ]
    assert not hub.exists(hub.Repo("org/broken"), "there")
    monkeypatch.setattr(hub, "reachable", lambda: True)
    assert hub.other_names(hub.Repo("org/old")) == {"org/new", "org/full"}
    assert hub.other_names(hub.Repo("org/broken")) == set()
    monkeypatch.setattr(hub, "reachable", lambda: False)
    assert hub.other_names(hub.Repo("org/old")) == set()
