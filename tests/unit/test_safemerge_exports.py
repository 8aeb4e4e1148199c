"""What an export carries, shown by loading it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import safemerge
from safemerge import Checkpoint
from safemerge.errors import UserError
from tests.conftest import Pico
from tests.pico import build_model, deltas, write_lora
from tests.unit.foreign import (
    LFS,
    configured,
    copied,
)

MODEL = "model.safetensors"
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True}
CONFIGURATION = """
from transformers import LlamaConfig
class PicoConfig(LlamaConfig):
    model_type = "pico"
"""
MODELING = """
from transformers import LlamaForCausalLM
from .configuration_pico import PicoConfig
class PicoForCausalLM(LlamaForCausalLM):
    config_class = PicoConfig
    def forward(self, *args, **kwargs):
        found = super().forward(*args, **kwargs)
        found.logits = found.logits * 2
        return found
"""
WANTED = {
    "config.json", "generation_config.json", "configuration_pico.py", "modeling_pico.py", MODEL, "tokenizer.json",
    "tokenizer_config.json", "chat_template.jinja", "additional_chat_templates/tool.jinja", "tokenizer.model",
    "preprocessor_config.json", "processor_config.json", "qwen.tiktoken", "LICENSE", "NOTICE.txt",
}  # fmt: skip


@pytest.fixture
def custom(tmp_path: Path) -> Path:
    """A model with code of its own, a tokenizer with its chat template, and whatever else lies in such folders."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path / "custom"
    build_model().save_pretrained(folder)
    classes = {
        "AutoConfig": "configuration_pico.PicoConfig",
        "AutoModelForCausalLM": "modeling_pico.PicoForCausalLM",
    }
    configured(folder, "config.json", model_type="pico", quantization_config=BNB, auto_map=classes)
    (folder / "configuration_pico.py").write_text(CONFIGURATION)
    (folder / "modeling_pico.py").write_text(MODELING)
    words = Tokenizer(models.WordLevel({"<unk>": 0, "hello": 1, "<end>": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", unk_token="<unk>")
    tokenizer.chat_template = "{{ messages[0].content }}<end>"
    tokenizer.save_pretrained(folder)
    (folder / "additional_chat_templates").mkdir()
    for name in WANTED.difference(path.name for path in folder.iterdir()):
        (folder / name).write_text("{}")
    for name in (
        "training_args.bin",
        "optimizer.pt",
        "trainer_state.json",
        "README.md",
        ".gitattributes",
        "adapter_config.json",
    ):
        (folder / name).write_text("{}")
    copied(folder, folder / "checkpoint-5")
    return folder


def test_an_export_carries_all_that_loading_needs(
    custom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shown by loading it: the model's own code doubles the logits. A former quantisation in the config is not believed."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    lora = write_lora(tmp_path / "lora")
    safemerge.export_model(aligned=custom, adapter=lora, output=tmp_path / "full")
    found = {
        path.relative_to(tmp_path / "full").as_posix()
        for path in (tmp_path / "full").rglob("*")
        if path.is_file()
    }
    assert found == WANTED
    assert "quantization_config" not in json.loads((tmp_path / "full" / "config.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "full", trust_remote_code=True)
    plain = build_model()
    for name, delta in deltas(lora).items():
        plain.get_submodule(name).weight.data += delta.float()
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, 2 * plain(ids).logits, atol=1e-5)
    (tmp_path / "full" / "tokenizer.model").unlink()  # a stand-in, which is none
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "full")
    assert (
        tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False) == "hello<end>"
    )


def test_an_export_of_a_sharded_tied_model_unties_its_head(pico: Pico, tmp_path: Path) -> None:
    if pico.family != "llama":
        pytest.skip("one family is enough")
    aligned = configured(copied(pico.aligned, tmp_path / "tied"), "config.json", tie_word_embeddings=True)
    tensors = load_file(aligned / MODEL)
    tensors.pop("lm_head.weight")
    (aligned / MODEL).unlink()
    names = {
        "a.safetensors": [k for k in tensors if "embed" in k],
        "b.safetensors": [k for k in tensors if "embed" not in k],
    }
    for file, its in names.items():
        save_file({k: tensors[k] for k in its}, aligned / file)
    mapped = {"weight_map": {k: file for file, its in names.items() for k in its}}
    (aligned / f"{MODEL}.index.json").write_text(json.dumps(mapped))
    lora = write_lora(tmp_path / "lora", shapes={"lm_head": (64, 32)})
    assert safemerge.export_model(aligned=aligned, adapter=lora, output=tmp_path / "full") == {
        "shards": 2,
        "modules": 1,
    }
    full = Checkpoint(tmp_path / "full")
    before = tensors["model.embed_tokens.weight"]
    assert torch.equal(full.weight("model.embed_tokens"), before)
    assert torch.allclose(full.weight("lm_head").double(), before + deltas(lora)["lm_head"], atol=1e-6)
    assert full.config["tie_word_embeddings"] is False


def test_a_pointer_among_the_files_beside_the_weights_is_found_before_writing(
    custom: Path, tmp_path: Path
) -> None:
    (custom / "tokenizer.json").write_bytes(LFS)
    with pytest.raises(UserError, match=r"tokenizer\.json is a git-lfs pointer"):
        safemerge.export_model(
            aligned=custom, adapter=write_lora(tmp_path / "lora"), output=tmp_path / "full"
        )
    assert not (tmp_path / "full").exists()


def test_an_adapter_of_another_model_is_not_exported(pico: Pico, tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "lora", base=str(pico.base))
    with pytest.raises(UserError, match="was trained on"):
        safemerge.export_model(aligned=pico.aligned, adapter=lora, output=tmp_path / "full")
    safemerge.export_model(aligned=pico.aligned, adapter=lora, output=tmp_path / "full", same_model=True)
