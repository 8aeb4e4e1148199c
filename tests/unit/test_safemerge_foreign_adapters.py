"""Adapters as other tools spell them: what means a plain LoRA is read as PEFT would read it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import safemerge
from safemerge import load_adapter
from safemerge.errors import UserError
from safemerge.peft_config import largest_rank
from tests.pico import HIDDEN, VOCAB, deltas, modules, save_pair, write_lora
from tests.unit.foreign import (
    P,
    Pair,
    Q,
    configured,
    copied,
    rekeyed,
    repaired,
    rewritten,
    vocabulary,
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(*save_pair(tmp_path_factory.mktemp("pair")))


SPELLINGS: dict[str, Callable[[str], str]] = {
    "torch.compile around the model": lambda k: k.replace(P, f"{P}_orig_mod."),
    "torch.compile around PEFT": lambda k: f"_orig_mod.{k}",
    "torch.compile around each layer": lambda k: re.sub(r"(layers\.\d+\.)", r"\1_orig_mod.", k),
    "DistributedDataParallel": lambda k: f"module.{k}",
    "the adapter's name": lambda k: re.sub(r"(lora_[AB])\.", r"\1.default.", k),
    "another adapter's name": lambda k: re.sub(r"(lora_[AB])\.", r"\1.gsm8k.", k),
    "no prefix": lambda k: k.removeprefix(P),
    "one model. short": lambda k: k.replace(f"{P}model.", P),
    "one base_model. short": lambda k: k.removeprefix("base_model."),
    "PEFT twice": lambda k: P + k,
    "multimodal": lambda k: k.replace(f"{P}model.", f"{P}model.language_model."),
    "multimodal, before transformers 4.52": lambda k: k.replace(f"{P}model.", f"{P}language_model.model."),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_keys_in_any_spelling_are_the_same_adapter(pair: Pair, tmp_path: Path, spelling: str) -> None:
    """As a task and as a safety adapter; the result has the names of the model's own modules, which PEFT looks for."""
    plain = write_lora(tmp_path / "task", seed=1), write_lora(tmp_path / "safety", seed=2)
    repaired(pair, tmp_path / "plain", *plain)
    odd = [rekeyed(copied(folder, tmp_path / f"odd {folder.name}"), SPELLINGS[spelling]) for folder in plain]
    for name, adapters in {"task": (odd[0], plain[1]), "safety": (plain[0], odd[1]), "both": odd}.items():
        repaired(pair, tmp_path / f"with odd {name}", *adapters)
        found, expected = (
            load_file(tmp_path / f / "adapter_model.safetensors") for f in (f"with odd {name}", "plain")
        )
        assert {k: t.tolist() for k, t in found.items()} == {k: t.tolist() for k, t in expected.items()}


NEW, OLD = "model.language_model.", "language_model.model."
MULTIMODAL = {"new, in new": (NEW, NEW), "old, in new": (OLD, NEW), "new, in old": (NEW, OLD), "old, in old": (OLD, OLD),
              "text, in new": ("model.", NEW), "text, in old": ("model.", OLD)}  # fmt: skip


@pytest.mark.parametrize("case", MULTIMODAL)
def test_multimodal_models_take_either_spelling(pair: Pair, tmp_path: Path, case: str) -> None:
    """PEFT and vLLM translate both of a multimodal model's, so these stay; a text adapter's becomes the new one."""
    ours, theirs = MULTIMODAL[case]
    folders = [copied(its, tmp_path / its.name) for its in (pair.base, pair.aligned)]
    for folder in folders:
        rekeyed(folder, lambda k: k.replace("model.", theirs, 1), "model.safetensors")
    task, safety = (write_lora(tmp_path / name, seed=i) for i, name in enumerate(("task", "safety")))
    expected = {
        row.rho for row in safemerge.similarity(base=pair.base, aligned=pair.aligned, task_adapter=task)
    }
    rekeyed(task, lambda k: k.replace(f"{P}model.", P + ours))
    done = repaired(Pair(*folders), tmp_path / "out", task, safety)
    assert {row.rho for row in done.rows} == expected
    assert all(name.startswith(NEW if ours == "model." else ours) for name in deltas(tmp_path / "out"))


def test_a_text_adapter_for_a_multimodal_model_loads_there(tmp_path: Path) -> None:
    """Into transformers' own model, by PEFT: what does not fit its names is left at zero, and said in a warning only."""
    from peft import PeftModel
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    torch.manual_seed(0)
    sizes = {"hidden_size": HIDDEN, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    text, vision = (
        LlamaConfig(vocab_size=VOCAB, **sizes),
        CLIPVisionConfig(image_size=16, patch_size=8, **sizes),
    )
    model = LlavaForConditionalGeneration(LlavaConfig(text_config=text, vision_config=vision))
    model.save_pretrained(tmp_path / "base")
    model.save_pretrained(tmp_path / "aligned")
    one = {Q: (HIDDEN, HIDDEN)}
    task, safety = (
        write_lora(tmp_path / name, seed=i, shapes=one) for i, name in enumerate(("task", "safety"))
    )
    repaired(Pair(tmp_path / "base", tmp_path / "aligned"), tmp_path / "out", task, safety)
    served = PeftModel.from_pretrained(model, tmp_path / "out").merge_and_unload().state_dict()
    before = load_file(tmp_path / "aligned" / "model.safetensors")[f"{OLD}layers.0.self_attn.q_proj.weight"]
    expected = 0.5 * deltas(task)[Q] + 0.5 * deltas(safety)[Q]
    found = served[f"{NEW}layers.0.self_attn.q_proj.weight"] - before
    assert torch.allclose(found.double(), expected, atol=1e-6) and expected.abs().max() > 0.1


def test_two_adapters_in_one_file_are_refused(tmp_path: Path) -> None:
    def doubled(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {
            re.sub(r"(lora_[AB])\.", rf"\1.{name}.", k): t.clone()
            for name in "ab"
            for k, t in tensors.items()
        }

    with pytest.raises(UserError, match=r"has two tensors for lora_[AB] of model"):
        load_adapter(rewritten(write_lora(tmp_path / "lora"), doubled))


def test_the_engine_serves_the_largest_rank_of_a_pattern(tmp_path: Path) -> None:
    lora = write_lora(
        tmp_path / "lora", rank=4, ranks={Q: 16}, rank_pattern={"layers.0.self_attn.q_proj": 16}
    )
    assert load_adapter(lora).modules[Q].rank == largest_rank(lora) == 16


@pytest.fixture(scope="module")
def tied(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The pair with its heads tied to the embeddings, as transformers saves them."""
    folder = tmp_path_factory.mktemp("tied")
    for source in (pair.base, pair.aligned):
        its = configured(copied(source, folder / source.name), "config.json", tie_word_embeddings=True)
        rewritten(its, lambda t: {k: v for k, v in t.items() if k != "lm_head.weight"}, "model.safetensors")
    return Pair(folder / "base", folder / "aligned")


def logits(folder: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder)(torch.arange(8)[None]).logits


def test_a_lora_on_a_tied_head(tied: Pair, tmp_path: Path) -> None:
    """Measured on the embedding, saved by PEFT with the head's own weight; exported, the head is untied."""
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tied.aligned)
    lora = LoraConfig(r=4, target_modules=["lm_head", "q_proj"], init_lora_weights=False)
    get_peft_model(model, lora).save_pretrained(tmp_path / "task")
    saved = load_file(tmp_path / "task" / "adapter_model.safetensors")
    assert f"{P}lm_head.base_layer.weight" in saved, "PEFT saves it since the head is adapted"
    safety = write_lora(tmp_path / "safety", shapes={Q: (HIDDEN, HIDDEN), "lm_head": (VOCAB, HIDDEN)})
    done = repaired(tied, tmp_path / "out", tmp_path / "task", safety)
    assert {row.module: row.flags for row in done.rows}["lm_head"] == () and "left out" in done.notes[0]
    safemerge.export_model(aligned=tied.aligned, adapter=tmp_path / "out", output=tmp_path / "full")
    found = load_file(tmp_path / "full" / "model.safetensors")
    before = load_file(tied.aligned / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(found["model.embed_tokens.weight"], before)
    assert torch.allclose(
        found["lm_head.weight"].double(), before + deltas(tmp_path / "out")["lm_head"], atol=1e-6
    )
    with torch.no_grad():
        fresh = AutoModelForCausalLM.from_pretrained(tied.aligned)
        served = PeftModel.from_pretrained(fresh, tmp_path / "out")(torch.arange(8)[None]).logits
    assert torch.allclose(logits(tmp_path / "full"), served, atol=1e-5)


def test_embeddings_of_a_resized_vocabulary_are_kept(pair: Pair, tmp_path: Path) -> None:
    """Both halves of the rows: the model's own must be there unchanged, the new ones go on into the result."""
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    def resized() -> Any:
        model = AutoModelForCausalLM.from_pretrained(pair.aligned)
        model.resize_token_embeddings(VOCAB + 3, mean_resizing=False)
        return model

    lora = LoraConfig(
        r=4, target_modules=list({name.rsplit(".", 1)[1] for name in modules()}), init_lora_weights=False
    )
    get_peft_model(resized(), lora).save_pretrained(tmp_path / "task", save_embedding_layers=True)
    vocabulary(tmp_path / "task", [f"t{i}" for i in range(VOCAB + 3)])
    saved = load_file(tmp_path / "task" / "adapter_model.safetensors")
    done = repaired(pair, tmp_path / "out", tmp_path / "task", write_lora(tmp_path / "safety"))
    assert all("with 67 rows" in note for note in done.notes) and len(done.notes) == 2
    found = load_file(tmp_path / "out" / "adapter_model.safetensors")
    names = [f"{P}model.embed_tokens.weight", f"{P}lm_head.weight"]
    assert all(torch.equal(found[name], saved[name]) for name in names)
    assert (tmp_path / "out" / "tokenizer.json").exists()
    safemerge.export_model(aligned=pair.aligned, adapter=tmp_path / "out", output=tmp_path / "full")
    with torch.no_grad():
        served = PeftModel.from_pretrained(resized(), tmp_path / "out")(torch.arange(8)[None]).logits
    assert logits(tmp_path / "full").shape[-1] == VOCAB + 3
    assert torch.allclose(logits(tmp_path / "full"), served, atol=1e-5)
    assert (tmp_path / "full" / "tokenizer.json").exists()


def test_trained_embeddings_are_refused(pair: Pair, tmp_path: Path) -> None:
    weight = load_file(pair.aligned / "model.safetensors")["model.embed_tokens.weight"] + 0.1
    task = write_lora(tmp_path / "task", extra={f"{P}model.embed_tokens.weight": weight})
    with pytest.raises(UserError, match=r"carries a whole embed_tokens.*trained too"):
        repaired(pair, tmp_path / "out", task, write_lora(tmp_path / "safety"))
