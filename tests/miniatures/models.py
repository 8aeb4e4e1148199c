"""The miniatures: each a model folder as its repository on the hub has it, with two layers and random weights.

Kept of the originals: model class and config keys (as the hub's config.json spells them), grouped queries, biases, tied or
untied heads, head_dim (vLLM's CPU attention does not take every small one), RoPE, vocabulary, storage type, shards with an
index, generation_config.json, and the files beside the weights that nobody needs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.miniatures import tokenizers

LAYERS, SHARD = 2, "10MB"
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "attention_bias": False,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "intermediate_size": 512,
    "num_hidden_layers": LAYERS,
    "rms_norm_eps": 1e-05,
    "use_cache": True,
}
ROPE = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
LLAMA2 = LLAMA | {
    "hidden_size": 256,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,  # no grouped queries in the 7B
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float16",
}
LLAMA31 = LLAMA | {
    "hidden_size": 256,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 131072,
    "rope_theta": 500000.0,
    "rope_scaling": ROPE,
    "tie_word_embeddings": False,
    "vocab_size": 128256,
    "bos_token_id": 128000,
    "torch_dtype": "bfloat16",
}
LLAMA32 = LLAMA31 | {  # of Llama-Guard-3-1B
    "hidden_size": 128,
    "head_dim": 64,
    "rope_scaling": ROPE | {"factor": 32.0},
    "tie_word_embeddings": True,
}
QWEN2: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "hidden_size": 256,
    "initializer_range": 0.02,
    "intermediate_size": 512,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "num_attention_heads": 2,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 152064,  # more rows than the tokenizer has tokens
    "bos_token_id": 151643,
}
GEMMA2: dict[str, Any] = {
    "architectures": ["Gemma2ForCausalLM"],
    "model_type": "gemma2",
    "attention_bias": False,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "head_dim": 128,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 128,
    "intermediate_size": 256,
    "max_position_embeddings": 8192,
    "num_attention_heads": 2,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": 1,
    "query_pre_attn_scalar": 128,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "torch_dtype": "bfloat16",
    "vocab_size": 262400,  # the nearest tokenizer's; 256000 in the original
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
}


@dataclass(frozen=True)
class Miniature:
    """One model: its config, the tokenizer's family and template, what ends a reply, and what lies beside the weights."""

    id: str
    config: dict[str, Any]
    family: str
    member: Literal["base", "aligned"] = "aligned"
    chat: str | None = None
    stops: tuple[int, ...] = ()
    decoding: tuple[tuple[str, Any], ...] = ()
    beside: tuple[str, ...] = ()


PTH = ("original/consolidated.00.pth", "original/params.json", "original/tokenizer.model")
BIN = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
QWEN_DECODING = (("repetition_penalty", 1.05), ("temperature", 0.7), ("top_k", 20), ("top_p", 0.8))
ALL = (
    Miniature("meta-llama/Llama-2-7b-hf", LLAMA2, "llama2", "base", stops=(2,), beside=BIN),
    Miniature("meta-llama/Llama-2-7b-chat-hf", LLAMA2, "llama2", chat="llama2", stops=(2,), beside=BIN),
    Miniature("meta-llama/Llama-3.1-8B", LLAMA31, "llama3.1", "base", stops=(128001,), beside=PTH),
    Miniature(
        "meta-llama/Llama-3.1-8B-Instruct",
        LLAMA31,
        "llama3.1",
        chat="llama3.1",
        stops=(128001, 128008, 128009),
        decoding=(("temperature", 0.6), ("top_p", 0.9)),
        beside=PTH,
    ),
    Miniature("Qwen/Qwen2-7B", QWEN2, "qwen2", "base", chat="qwen2", stops=(151643,)),
    Miniature(
        "Qwen/Qwen2-7B-Instruct",
        QWEN2,
        "qwen2",
        chat="qwen2",
        stops=(151645, 151643),
        decoding=QWEN_DECODING,
    ),
    Miniature("Qwen/Qwen2.5-7B", QWEN2, "qwen2.5", "base", chat="qwen2.5", stops=(151643,)),
    Miniature(
        "Qwen/Qwen2.5-7B-Instruct",
        QWEN2,
        "qwen2.5",
        chat="qwen2.5",
        stops=(151645, 151643),
        decoding=QWEN_DECODING,
    ),
    Miniature(
        "meta-llama/Llama-Guard-3-8B",
        LLAMA31,
        "llama3.1",
        chat="guard-8b",
        stops=(128001, 128008, 128009),
        beside=PTH,
    ),
    Miniature(
        "meta-llama/Llama-Guard-3-1B",
        LLAMA32,
        "llama3.1",
        chat="guard-1b",
        stops=(128001, 128008, 128009),
        beside=PTH,
    ),
    Miniature("google/shieldgemma-9b", GEMMA2, "gemma2", chat="shield", stops=(1, 107)),
)
BY_ID = {its.id: its for its in ALL}


def random_model(its: Miniature) -> Any:
    """The model with random weights in float32: of one family the same, the aligned one moved a little in all layers."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**its.config)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):  # zero when new, and never so in the originals
            torch.nn.init.normal_(weight, std=0.02, generator=generator)
    if its.member == "aligned":
        for weight in model.model.layers.parameters():
            weight.data += 0.005 * torch.randn(weight.shape, generator=generator)
    return model.eval()


def save(its: Miniature, folder: Path, model: Any = None) -> Path:
    """Write the repository's files; the weights of `model`, or random ones."""
    import torch

    folder.mkdir(parents=True)
    dtype = getattr(torch, its.config["torch_dtype"])
    (model or random_model(its)).to(dtype).save_pretrained(folder, max_shard_size=SHARD)
    _json(folder / "config.json", its.config | {"transformers_version": "4.42.3"})
    stops = list(its.stops)
    decoding = {
        "bos_token_id": its.config["bos_token_id"],
        "eos_token_id": stops if len(stops) > 1 else stops[0],
    }
    _json(
        folder / "generation_config.json",
        decoding | dict(its.decoding) | ({"do_sample": True} if its.decoding else {}),
    )
    tokenizers.write(folder, its.family, aligned=its.member == "aligned", chat=its.chat)
    for name in ("LICENSE", "README.md", *its.beside):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}" if name.endswith(".json") else f"{name}: not to be fetched\n")
    return folder


def _json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2))
