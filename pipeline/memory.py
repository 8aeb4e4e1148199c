"""How much memory a stage takes on each device, term by term, from the sizes of its model. Imports no torch.

Terms are bytes. What autograd keeps of a layer is counted tensor by tensor as transformers' Llama and PEFT leave it behind
(`tests/unit/test_memory.py` compares it with autograd's own list); whole stages are compared with measured peaks in
docs/scale.md. The libraries themselves are not counted from sizes: `LIBRARIES` is measured on a CPU, a guess on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.shape import Shape

GIB = 2**30
#: Bytes that a worker takes before it has loaded a model. CPU: resident, measured (docs/scale.md). GPU: the CUDA context,
#: cuBLAS's workspaces and what the allocator holds back; a guess.
LIBRARIES = {
    ("train", "cpu"): int(0.75 * GIB),
    ("transformers", "cpu"): int(0.75 * GIB),
    ("vllm", "cpu"): int(1.0 * GIB),
    ("train", "gpu"): int(1.5 * GIB),
    ("transformers", "gpu"): int(1.0 * GIB),
    ("vllm", "gpu"): int(2.0 * GIB),
}
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
TILE = 2**26  # bytes of logits that a fused output layer holds at once, at most; a guess
PREFILL = 2048  # tokens that vLLM reads at once, at most, unless a prompt is longer
KV_CPU = GIB  # VLLM_CPU_KVCACHE_SPACE as the engine sets it
Device = Literal["cpu", "gpu"]


@dataclass(frozen=True)
class Need:
    """Bytes on each device, by what holds them."""

    terms: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.terms.values())

    @property
    def gib(self) -> float:
        return self.total / GIB

    @property
    def model(self) -> int:
        """All but the libraries."""
        return self.total - self.terms.get("libraries", 0)


@dataclass(frozen=True)
class Fit:
    """How a LoRA is trained on each device. parallel: ddp or fsdp; answers: the share of tokens that have a loss."""

    rank: int
    targets: Sequence[str] | str
    dtype: str
    rows: int
    length: int
    checkpointing: bool = False
    devices: int = 1
    parallel: str = "ddp"
    answers: float = 1.0


def kept_by_layer(shape: Shape, fit: Fit, device: Device) -> int:
    """Bytes that autograd keeps of one layer between its forward and its backward pass.

    Of frozen weights' products nothing is kept; LoRA's A keeps its input, which modules that read the same share.
    """
    b, tokens = BYTES[fit.dtype], fit.rows * fit.length
    h, i = shape.hidden_size, shape.intermediate_size
    wide = shape.num_attention_heads * shape.head_dim
    on = set(shape.adapted(fit.targets if isinstance(fit.targets, str) else list(fit.targets)))
    inputs = (
        h * bool(on & {"q_proj", "k_proj", "v_proj"})
        + wide * ("o_proj" in on)
        + h * bool(on & {"gate_proj", "up_proj"})
        + i * ("down_proj" in on)
    )
    mlp = 3 * i  # gate, up, and gate after SiLU
    heads = 3 * wide  # queries, and keys and values repeated for the groups
    norms = 2 * 4 * (h + 1)  # in float32 whatever the weights are
    per_token = b * (inputs + mlp + heads + fit.rank * len(on)) + norms
    if device == "cpu":  # eager attention: the weights in float32, and as the products take them
        per_token += shape.num_attention_heads * fit.length * (4 + (b if b < 4 else 0))
    else:  # fused attention: its output and a number per head and token
        per_token += b * wide + 4 * shape.num_attention_heads
    return tokens * per_token


def training(shape: Shape, fit: Fit, device: Device, stored: str | None = None) -> Need:
    """A step of a LoRA's training, AdamW's state included, on each of `fit.devices` devices. stored: see `_loading`."""
    b, tokens = BYTES[fit.dtype], fit.rows * fit.length
    targets = fit.targets if isinstance(fit.targets, str) else list(fit.targets)
    lora = 4 * shape.lora_parameters(fit.rank, targets)
    sharded = fit.devices > 1 and fit.parallel == "fsdp"
    parts = fit.devices if sharded else 1
    layer = kept_by_layer(shape, fit, device)
    layers = shape.num_hidden_layers
    entry = tokens * shape.hidden_size * b
    terms = {
        "weights": b * shape.parameters // parts,
        "LoRA": lora // parts,
        "gradients": lora // parts,
        "optimizer": 2 * lora // parts,
        "activations": layers * entry + layer if fit.checkpointing else layers * layer,
        "working": max(_logits(shape, fit, device), _backward(shape, fit, device)),
        "libraries": LIBRARIES["train", device],
    }
    if sharded:  # a layer, and the next one meanwhile, are whole
        ends = shape.embedding * (1 if shape.tie_word_embeddings else 2)
        terms["gathered"] = b * max(2 * shape.layer_parameters, ends + shape.layer_parameters)
    elif fit.devices > 1:
        terms["buckets"] = lora  # of gradients, summed over the ranks
    else:
        later = sum(terms.values()) - terms["weights"] - terms["libraries"]
        terms["loading"] = _loading(shape, fit.dtype, device, stored, later)
    return Need(terms)


def _loading(shape: Shape, dtype: str, device: Device, stored: str | None, later: int) -> int:
    """While a checkpoint is converted from another format (`stored`) both are there, on a CPU perhaps more than what comes
    later."""
    copied = BYTES[stored] * shape.parameters if stored not in (None, dtype) and device == "cpu" else 0
    return max(0, copied - later)


def _logits(shape: Shape, fit: Fit, device: Device) -> int:
    """The loss: logits of the tokens that have one, in place; of several ranks, what TRL's holds of every token.

    That is, when its backward pass begins, log-probabilities and two gradients of them, in float32.
    """
    tokens = fit.rows * fit.length
    if device == "gpu":  # TRL's fused head
        return TILE
    if fit.devices > 1:
        return tokens * shape.vocab_size * 3 * 4
    return round(tokens * fit.answers) * shape.vocab_size * BYTES[fit.dtype]


def _backward(shape: Shape, fit: Fit, device: Device) -> int:
    """The gradients of one layer at its widest."""
    b, tokens = BYTES[fit.dtype], fit.rows * fit.length
    mlp = 3 * shape.intermediate_size * b
    attention = shape.num_attention_heads * fit.length * (4 + b) if device == "cpu" else 0
    return tokens * max(mlp, attention)


def transformers(
    shape: Shape,
    *,
    dtype: str,
    batch: int,
    prompt: int,
    new: int,
    lora: int = 0,
    device: Device = "cpu",
    stored: str | None = None,
) -> Need:
    """Generation by plain transformers. lora: bytes of the adapter. stored: see `_loading`."""
    b, length = BYTES[dtype], prompt + new
    wide = shape.num_attention_heads * shape.head_dim
    mlp = 3 * shape.intermediate_size * b
    later = {
        "LoRA": lora,
        "KV cache": batch * length * kv_bytes(shape, dtype),
        "logits": 4 * batch * new * shape.vocab_size,  # all are held until the batch is done
        "working": batch * prompt * (mlp + b * (wide + 2 * shape.hidden_size)),
    }
    loading = _loading(shape, dtype, device, stored, sum(later.values()))
    weights, libraries = b * shape.parameters, LIBRARIES["transformers", device]
    return Need({"weights": weights, **later, "loading": loading, "libraries": libraries})


def kv_bytes(shape: Shape, dtype: str) -> int:
    """Bytes of keys and values of one token."""
    return 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim * BYTES[dtype]


def engine(
    shape: Shape,
    *,
    dtype: str,
    longest: int,
    sequences: int,
    loras: int = 0,
    rank: int = 0,
    parts: int = 1,
    device: Device = "gpu",
) -> Need:
    """vLLM's engine on each of `parts` devices, so that all `sequences` of the `longest` length run at once.

    On a GPU it takes `gpu_memory_utilization` of all there is, whatever it needs; with less than this, fewer run at once.
    """
    b = BYTES[dtype]
    slots = loras * b * shape.lora_parameters(rank, "all")
    read = max(PREFILL, longest)
    caches = sequences * longest * kv_bytes(shape, dtype)
    return Need(
        {
            "weights": b * shape.parameters // parts,
            "LoRA slots": slots // parts,
            "KV cache": KV_CPU if device == "cpu" else caches // min(parts, shape.num_key_value_heads),
            "working": read * (3 * shape.intermediate_size // parts + 4 * shape.hidden_size) * b,
            "logits": 2 * 4 * sequences * shape.vocab_size // parts,
            "libraries": LIBRARIES["vllm", device],
        }
    )


def merging(shape: Shape, dtype: str) -> Need:
    """Similarity and merging: four times the largest pair of weights, which `make bench` holds them to."""
    largest = max(d_out * d_in for d_out, d_in in shape.modules.values())
    return Need({"weights": 4 * 2 * largest * BYTES[dtype]})
