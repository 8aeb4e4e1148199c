"""Adapters as people have them: what means a plain LoRA is read as PEFT would, what does not is named in one line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import safemerge
from evaluation.engine import adapter_rank
from safemerge import Checkpoint, load_adapter
from safemerge.errors import UserError
from safemerge.fit import fitted
from tests.pico import HIDDEN, VOCAB, deltas, modules, save_pair, write_lora
from tests.unit.foreign import LFS, FakeHub, P, Q, configured, copied, rekeyed, rewritten

CHAT, BASE = "meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B"


@dataclass(frozen=True)
class Pair:
    base: Path
    aligned: Path


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(*save_pair(tmp_path_factory.mktemp("pair")))


def repaired(
    pair: Any, output: Path, task: Path | str, safety: Path | str, **options: Any
) -> safemerge.Repaired:
    """All modules blended half and half."""
    return safemerge.repair(base=pair.base, aligned=pair.aligned, task_adapter=task, safety_adapter=safety,
                            output=output, tau=2.0, alpha=0.5, **options)  # fmt: skip


# --- keys -------------------------------------------------------------------------------------------------------------

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


# --- which model ------------------------------------------------------------------------------------------------------

# What an adapter records, and what comes of it as a task and as a safety adapter for CHAT: a note, or a refusal.
RECORDED = {
    "unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit": ("by its name a copy", None),
    "unsloth/Llama-3.1-8B-Instruct-unsloth-bnb-4bit": ("by its name a copy", None),
    "NousResearch/Meta-Llama-3.1-8B-Instruct": ("by its name a copy", None),
    "meta-llama/Meta-Llama-3.1-8B-Instruct": ("by its name a copy", None),
    "mlx-community/Llama-3.1-8B-Instruct-8bit": ("by its name a copy", None),
    "/content/gone/llama-3.1-8b-instruct": ("by its name a copy", None),
    "old-owner/renamed": ("by what the hub says of it", None),
    "someone/my-awq": ("by what the hub says of it", None),
    "/content/gone/model": ("cannot be told by name", None),
    f"{CHAT}@main": (None, None),
    "mistralai/Mistral-7B-Instruct-v0.3": (None, "was trained on mistralai/.*--same-model"),
    "meta-llama/Llama-3.2-3B-Instruct": (None, "was trained on meta-llama/Llama-3.2"),
    BASE: (None, f"was trained on the base model {BASE}"),
    "unsloth/Meta-Llama-3.1-8B-bnb-4bit": (
        None,
        "was trained on the base model unsloth/Meta-Llama-3.1-8B-bnb-4bit",
    ),
    "someone/base-awq": (None, "was trained on the base model someone/base-awq"),
}
KNOWN = {
    "old-owner__renamed": {CHAT},
    "someone__my-awq": {"someone/my-awq", CHAT},
    "someone__base-awq": {BASE},
}


@pytest.fixture
def on_hub(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    return FakeHub(monkeypatch, {BASE: pair.base, CHAT: pair.aligned}, **KNOWN)


@pytest.mark.parametrize("role", ["task", "safety"])
@pytest.mark.parametrize("recorded", RECORDED)
def test_the_recorded_model_is_compared_by_name(
    on_hub: FakeHub, tmp_path: Path, recorded: str, role: str
) -> None:
    note, refusal = RECORDED[recorded]
    odd = write_lora(tmp_path / "odd", base=recorded, shapes={Q: (HIDDEN, HIDDEN)})
    good = write_lora(tmp_path / "good", base=CHAT, shapes={Q: (HIDDEN, HIDDEN)})
    adapters = (odd, good) if role == "task" else (good, odd)
    if refusal:
        with pytest.raises(UserError, match=refusal):
            repaired(Pair(BASE, CHAT), tmp_path / "out", *adapters)
        assert not (tmp_path / "out").exists()
        notes = repaired(Pair(BASE, CHAT), tmp_path / "out", *adapters, same_model=True).notes
        assert len(notes) == 1 and "as you say" in notes[0]
        return
    notes = repaired(Pair(BASE, CHAT), tmp_path / "out", *adapters).notes
    assert (len(notes) == 1 and note in notes[0] and "only its shapes" in notes[0]) if note else notes == []


@pytest.mark.parametrize("role", ["task", "safety"])
def test_a_recorded_folder_is_compared_by_weights(pair: Pair, tmp_path: Path, role: str) -> None:
    """The base and another model are refused, a copy in another precision is taken, a 4-bit one leaves a note."""
    good = write_lora(tmp_path / "good", base=str(pair.aligned))
    half = rewritten(
        copied(pair.aligned, tmp_path / "half"),
        lambda t: {k: v.half() for k, v in t.items()},
        "model.safetensors",
    )
    four = copied(pair.aligned, tmp_path / "chat-bnb-4bit")
    rewritten(
        four,
        lambda t: {k: v.to(torch.uint8) if "proj" in k else v for k, v in t.items()},
        "model.safetensors",
    )
    for number, (recorded, said) in enumerate(
        {
            pair.base: "the base model",
            half: None,
            four: "cannot be told by name; its shapes and the size of its vocab",
        }.items()
    ):
        odd = write_lora(tmp_path / f"odd {number}", base=str(recorded))
        adapters, out = ((odd, good) if role == "task" else (good, odd)), tmp_path / f"out {number}"
        if said == "the base model":
            with pytest.raises(UserError, match=said):
                repaired(pair, out, *adapters)
        else:
            notes = repaired(pair, out, *adapters).notes
            assert (said in notes[0]) if said else notes == []


def vocabulary(folder: Path, tokens: list[str], added: Mapping[str, int] | None = None) -> None:
    found = {"model": {"type": "BPE", "vocab": {token: i for i, token in enumerate(tokens)}},
             "added_tokens": [{"content": token, "id": i} for token, i in (added or {}).items()]}  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(found))


def test_a_tokenizer_beside_the_adapter_speaks_against_another_model(pair: Pair, tmp_path: Path) -> None:
    aligned = copied(pair.aligned, tmp_path / "aligned")
    vocabulary(aligned, [f"t{i}" for i in range(VOCAB)])
    lora = write_lora(tmp_path / "lora", base="owner/aligned-bnb-4bit")

    def notes() -> list[str]:
        models = Checkpoint(pair.base), Checkpoint(aligned)
        return list(fitted(load_adapter(lora), *models).notes)

    vocabulary(lora, [f"t{i}" for i in range(VOCAB)], {"<pad>": VOCAB})
    assert "its shapes and its vocabulary were compared" in notes()[0]
    vocabulary(lora, [f"t{i + 1}" for i in range(VOCAB)])
    with pytest.raises(
        UserError, match=r"tokenizer of another model than .*64 of 64 tokens differ, such as 't0'"
    ):
        notes()


def test_the_command_has_the_flag_and_says_the_note(
    on_hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safemerge.cli import main

    task = write_lora(tmp_path / "task", base="someone/else")
    command = ["inspect", "--base", BASE, "--aligned", CHAT, "--task-adapter", str(task)]
    assert main(command) == 2 and "--same-model" in capsys.readouterr().err
    assert main([*command, "--same-model"]) == 0 and "note: " in capsys.readouterr().err


# --- ranks, heads, embeddings -----------------------------------------------------------------------------------------


def test_the_engine_serves_the_largest_rank_of_a_pattern(tmp_path: Path) -> None:
    lora = write_lora(
        tmp_path / "lora", rank=4, ranks={Q: 16}, rank_pattern={"layers.0.self_attn.q_proj": 16}
    )
    assert load_adapter(lora).modules[Q].rank == adapter_rank(lora) == 16


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


# --- where it lies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "revision"),
    [("org/loras/deep/gsm8k", None), ("org/loras/deep/gsm8k@refs/pr/1", "refs/pr/1")],
)
def test_a_folder_in_a_repository(
    on_hub: FakeHub, tmp_path: Path, reference: str, revision: str | None
) -> None:
    write_lora(tmp_path / "repo" / "deep" / "gsm8k")
    on_hub.folders["org/loras"] = tmp_path / "repo"
    assert Q in load_adapter(reference).modules
    assert set(on_hub.asked) == {
        ("org/loras", f"deep/gsm8k/{name}", revision)
        for name in ("adapter_config.json", "adapter_model.safetensors")
    }


def test_a_mistyped_folder_is_not_looked_for_on_the_hub(
    on_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no folder models/llama/lora; models is a folder here"):
        load_adapter("models/llama/lora")
    assert on_hub.asked == []


# --- other kinds, named -----------------------------------------------------------------------------------------------


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


def written(file: str, content: bytes, without: str = "") -> Callable[[Path], Path]:
    def change(folder: Path) -> Path:
        (folder / file).write_bytes(content)
        if without:
            (folder / without).unlink()
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


# --- malformed configs ------------------------------------------------------------------------------------------------

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
