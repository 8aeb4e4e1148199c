"""Models and adapters of a few thousand random weights, saved as real checkpoints and PEFT folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

HIDDEN, HEADS, KV_HEADS = 32, 4, 2  # grouped-query attention: k and v are half as wide
MIDDLE, LAYERS, VOCAB = 48, 2, 64
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN // 2, HIDDEN),
    "self_attn.v_proj": (HIDDEN // 2, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (MIDDLE, HIDDEN),
    "mlp.up_proj": (MIDDLE, HIDDEN),
    "mlp.down_proj": (HIDDEN, MIDDLE),
}
QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def modules(kinds: tuple[str, ...] = tuple(SHAPES), layers: int = LAYERS) -> dict[str, tuple[int, int]]:
    """Full module name -> (d_out, d_in)."""
    return {f"model.layers.{i}.{kind}": SHAPES[kind] for i in range(layers) for kind in kinds}


def build_model(family: str = "llama", seed: int = 0) -> Any:
    """A random Llama, or Qwen2 with its q, k and v biases, in float32."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": MIDDLE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": 64,
    }
    torch.manual_seed(seed)
    model = (
        LlamaForCausalLM(LlamaConfig(**sizes))
        if family == "llama"
        else Qwen2ForCausalLM(Qwen2Config(**sizes))
    )
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model.eval()


def save_pair(folder: Path, family: str = "llama", **save_options: Any) -> tuple[Path, Path]:
    """base and aligned folders: a random model, and the same one moved a little in every weight."""
    model = build_model(family)
    model.save_pretrained(folder / "base", **save_options)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.01 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder / "aligned", **save_options)
    return folder / "base", folder / "aligned"


def write_lora(
    folder: Path,
    *,
    rank: int = 4,
    alpha: float = 8,
    seed: int = 0,
    shapes: dict[str, tuple[int, int]] | None = None,
    ranks: dict[str, int] | None = None,
    dtype: torch.dtype = torch.float32,
    base: str = "",
    extra: dict[str, torch.Tensor] | None = None,
    **config: Any,
) -> Path:
    """A PEFT LoRA folder of random factors. ranks: per module, beside the rank_pattern given in config."""
    generator = torch.Generator().manual_seed(seed)
    shapes = modules() if shapes is None else shapes
    tensors = dict(extra or {})
    for name, (d_out, d_in) in shapes.items():
        r = (ranks or {}).get(name, rank)
        tensors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(r, d_in, generator=generator).to(
            dtype
        )
        tensors[f"base_model.model.{name}.lora_B.weight"] = (
            0.1 * torch.randn(d_out, r, generator=generator)
        ).to(dtype)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted({name.rsplit(".", 1)[-1] for name in shapes}),
        "bias": "none",
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def deltas(folder: Path | str) -> dict[str, torch.Tensor]:
    """dW of every module of a PEFT folder, dense, in float64; PEFT's own config rules, nothing of ours."""
    from peft import LoraConfig
    from safetensors.torch import load_file

    config = LoraConfig.from_pretrained(str(folder))
    tensors = load_file(Path(folder) / "adapter_model.safetensors")
    result = {}
    for key, a in tensors.items():
        if ".lora_A." in key:
            name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            rank = a.shape[0]
            alpha = next((v for k, v in config.alpha_pattern.items() if name.endswith(k)), config.lora_alpha)
            scaling = alpha / (rank**0.5 if config.use_rslora else rank)
            result[name] = scaling * tensors[key.replace("lora_A", "lora_B")].double() @ a.double()
    return result


def dense_rho(delta: torch.Tensor, v: torch.Tensor) -> float:
    """The definition, in float64: cos(dW, C dW) with C = V V^T / ||V||_F."""
    delta, v = delta.double(), v.double()
    projected = v @ v.T @ delta / v.norm()
    return float((delta * projected).sum() / (delta.norm() * projected.norm()))


def allocations(work: Callable[[], object]) -> list[int]:
    """The bytes that torch allocated, and freed (negative), on the CPU for the work; mapped files do not count."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    return [event.nbytes() for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]


def peak_of_buffers(work: Callable[[], object]) -> int:
    """The most bytes that torch had allocated at once for what the work made."""
    return max(accumulate(allocations(work)), default=0)
