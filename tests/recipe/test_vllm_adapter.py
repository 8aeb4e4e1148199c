"""vLLM gives a repaired adapter the log-probabilities that transformers gives the dense deltas."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from safemerge import export_model, repair_adapter
from safemerge.selection import Repair
from tests.pico import deltas, modules, write_lora
from tests.unit.foreign import configured

pytestmark = pytest.mark.recipe
HIDDEN, MIDDLE, VOCAB = 128, 192, 64  # vLLM's CPU attention wants heads of 32
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN // 2, HIDDEN),
    "self_attn.v_proj": (HIDDEN // 2, HIDDEN),
    "mlp.up_proj": (MIDDLE, HIDDEN),
    "mlp.down_proj": (HIDDEN, MIDDLE),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    sizes = {"hidden_size": HIDDEN, "intermediate_size": MIDDLE, "vocab_size": VOCAB, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
    LlamaForCausalLM(LlamaConfig(**sizes, **heads, initializer_range=0.1)).save_pretrained(tmp_path / "model")
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_vllm_serves_the_repaired_adapter(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vllm")
    for name, value in {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}.items():
        monkeypatch.setenv(name, os.environ.get(name, value))
    from transformers import AutoModelForCausalLM
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    shapes = {f"model.layers.{i}.{kind}": shape for i in range(2) for kind, shape in SHAPES.items()}
    task = write_lora(tmp_path / "task", rank=4, alpha=8, seed=1, shapes=shapes, base=str(model))
    safety = write_lora(tmp_path / "safety", rank=6, alpha=6, seed=2, shapes=shapes, base=str(model))
    selected = [name for name in shapes if name.endswith(("q_proj", "down_proj"))]
    info = repair_adapter(
        task=task,
        safety=safety,
        selected=selected,
        repair=Repair("blend", alpha=0.7),
        output=tmp_path / "out",
    )
    assert info.rank == 10

    ids = [(7 * i) % VOCAB for i in range(24)]
    reference = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        base = torch.log_softmax(reference(torch.tensor([ids])).logits[0].double(), -1)
        ours, theirs = deltas(task), deltas(safety)
        for name, delta in ours.items():
            wanted = 0.7 * delta + 0.3 * theirs[name] if name in selected else delta
            reference.get_submodule(name).weight += wanted.float()
        expected = torch.log_softmax(reference(torch.tensor([ids])).logits[0].double(), -1)

    engine = LLM(
        model=str(model),
        dtype="float32",
        enforce_eager=True,
        enable_lora=True,
        max_lora_rank=16,
        max_model_len=64,
        max_logprobs=VOCAB,
    )
    sampling = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=VOCAB, logprobs=0)
    request = LoRARequest("repaired", 1, str(tmp_path / "out"))
    answer = engine.generate([{"prompt_token_ids": ids}], sampling, lora_request=request)[0]
    for position, entries in enumerate(answer.prompt_logprobs[1:], start=0):
        found = torch.tensor([entries[token].logprob for token in range(VOCAB)], dtype=torch.float64)
        assert (found - expected[position]).abs().max() <= 2e-3, position
    assert (expected - base).abs().max() > 0.1  # an adapter that is not applied would show


def test_two_engines_of_vllm_answer_like_one(model: Path, tmp_path: Path) -> None:
    """Each in a process of its own, with its part of the adapters."""
    pytest.importorskip("vllm")
    from evaluation import engines
    from evaluation.engine import Request

    shapes = {f"model.layers.{i}.{kind}": shape for i in range(2) for kind, shape in SHAPES.items()}
    adapters: list[tuple[Path | None, str]] = [(None, "")]
    for seed in range(3):
        path = write_lora(tmp_path / f"lora{seed}", rank=4, seed=seed, shapes=shapes, base=str(model))
        adapters.append((path, path.name))
    asked = [
        Request(f"{key}:{i}", [3 + i, 5, 7], 8, adapter, key, item=str(i))
        for adapter, key in adapters
        for i in range(3)
    ]
    how = {"backend": "vllm", "dtype": "float32", "max_num_seqs": 16}
    # The one engine is in a process of its own, too: this one stays as it is.
    found = [
        {
            r.key: r
            for r in engines.generate(str(model), asked, data_parallel_size=n, tensor_parallel_size=1, **how)
        }
        for n in (1, 2)
    ]
    one, two = found
    assert one.keys() == two.keys() and len(one) == 12
    for key, reply in one.items():
        assert two[key].ids == reply.ids and two[key].logprob == pytest.approx(reply.logprob, abs=1e-3)
    assert len({tuple(one[f"{key}:0"].ids) for _, key in adapters}) > 1, "adapters make a difference"


def alike_in_both_engines(model: Path, adapter: Path | None = None) -> None:
    """vLLM answers as transformers does, which reads PEFT folders by PEFT itself."""
    pytest.importorskip("vllm")
    from evaluation.engine import Request, generate

    asked = [Request(str(i), [3 + i, 5, 7], 8, adapter, "lora" if adapter else "") for i in range(4)]
    found = [
        {r.key: r for r in generate(str(model), asked, backend=backend, dtype="float32")}
        for backend in ("vllm", "transformers")
    ]
    for key, reply in found[0].items():
        assert reply.ids == found[1][key].ids and reply.logprob == pytest.approx(
            found[1][key].logprob, abs=1e-3
        )


def test_vllm_serves_a_rank_pattern_above_r(model: Path, tmp_path: Path) -> None:
    """With room for the largest rank; it would refuse this adapter with room for its r."""
    q, up = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"
    shapes = {q: SHAPES["self_attn.q_proj"], up: SHAPES["mlp.up_proj"]}
    lora = write_lora(tmp_path / "lora", rank=4, alpha=12, shapes=shapes, ranks={q: 24}, rank_pattern={q: 24})
    alike_in_both_engines(model, lora)


def test_vllm_loads_an_exported_model(model: Path, tmp_path: Path) -> None:
    """Of a model whose head was tied, with a LoRA on that head: the head is a weight of its own in the export."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(model / "model.safetensors")
    tensors.pop("lm_head.weight")
    save_file(tensors, model / "model.safetensors")
    configured(model, "config.json", tie_word_embeddings=True)
    lora = write_lora(
        tmp_path / "lora", shapes={"lm_head": (VOCAB, HIDDEN), "model.layers.0.mlp.up_proj": (MIDDLE, HIDDEN)}
    )
    export_model(aligned=model, adapter=lora, output=tmp_path / "full")
    alike_in_both_engines(tmp_path / "full")


def test_the_shapes_are_those_of_the_pico_models() -> None:
    assert set(SHAPES) < {name.split(".", 3)[3] for name in modules()}


def test_vllm_samples_by_prompt_and_stops_at_every_eos(model: Path) -> None:
    """As the transformers backend does (tests/unit/test_engine.py)."""
    pytest.importorskip("vllm")
    from transformers import GenerationConfig

    from evaluation.engine import Request, generate

    prompts = {name: [3 + i, 5 + 2 * i, 7] for i, name in enumerate("abcde")}

    def replies(names: str) -> dict[str, tuple[list[int], str]]:
        requests = [Request(f"0:{name}", prompts[name], 8, item=name) for name in names]
        options = {"backend": "vllm", "dtype": "float32", "temperature": 1.0, "seed": 5}
        return {r.key[2:]: (r.ids, r.finish_reason) for r in generate(str(model), requests, **options)}

    GenerationConfig(eos_token_id=VOCAB - 1).save_pretrained(model)
    every = replies("abcde")
    assert replies("db") == {name: every[name] for name in "db"}
    name, ids = next(
        (n, ids) for n, (ids, why) in every.items() if why == "length" and len(set(ids[:3])) == 3
    )
    GenerationConfig(eos_token_id=[VOCAB - 1, VOCAB - 2, ids[2]]).save_pretrained(model)
    assert replies(name) == {name: (ids[:3], "stop")}
