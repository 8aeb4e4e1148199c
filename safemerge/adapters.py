"""LoRA adapters in PEFT's folder format: reading, checking, and writing a plain one."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from safemerge.checkpoints import fetch, read_json
from safemerge.errors import UserError, first_line
from safemerge.table import module_order

CONFIG, WEIGHTS, WEIGHTS_BIN = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
_PREFIX = "base_model.model."
_KEY = re.compile(rf"^{re.escape(_PREFIX)}(?P<module>.+)\.lora_(?P<side>[AB])\.weight$")
# What a LoRA config may switch on that makes dW something else than s B A on top of the untouched base.
_REFUSED = {
    "use_dora": "DoRA rescales the base weight",
    "lora_bias": "it trains LoRA biases",
    "modules_to_save": "it carries whole trained modules",
    "trainable_token_indices": "it trains token embeddings",
    "target_parameters": "it adapts bare parameters",
    "fan_in_fan_out": "its weights are transposed (Conv1D)",
    "use_qalora": "QALoRA pools its input",
    "layer_replication": "it repeats layers",
    "alora_invocation_tokens": "aLoRA acts on part of the tokens only",
    "use_bdlora": "its factors are block-diagonal",
    "arrow_config": "it routes between adapters",
    "kasa_config": "it changes the base weight",
    "megatron_config": "its layers are split for Megatron",
}
_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_BASE_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class Lora:
    """One module's update dW = scaling * b @ a; a: r x d_in, b: d_out x r, as stored."""

    a: Tensor
    b: Tensor
    scaling: float

    @property
    def rank(self) -> int:
        return int(self.a.shape[0])


@dataclass(frozen=True)
class Adapter:
    """A checked LoRA adapter: module name -> factors, in execution order."""

    source: str
    config: Mapping[str, Any]
    modules: Mapping[str, Lora]
    digest: str

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.modules.values())).a.dtype

    @property
    def base(self) -> str:
        """The model it says it was trained on; empty if it does not say."""
        return self.config.get("base_model_name_or_path") or ""


def load_adapter(reference: str | Path | Adapter) -> Adapter:
    """Read and check a PEFT LoRA folder or hub id. UserError, naming module and remedy, unless plain LoRA."""
    if isinstance(reference, Adapter):
        return reference
    source = str(reference)
    path = fetch(source, CONFIG)
    assert path is not None
    config = read_json(path)
    _check_config(source, config)
    weights = fetch(source, WEIGHTS, missing_ok=True) or fetch(source, WEIGHTS_BIN, missing_ok=True)
    if weights is None:
        raise UserError(f"{source} has no {WEIGHTS}; is it a PEFT adapter folder?")
    modules = _pair(source, config, _read(weights))
    return Adapter(source, config, modules, file_digest(weights))


def _check_config(source: str, config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise UserError(f"{source} is a {config.get('peft_type')} adapter; only LoRA can be merged")
    for option, why in _REFUSED.items():
        if config.get(option):
            raise UserError(
                f"{source} has {option}={config[option]}: {why}; that cannot be merged, train plain LoRA"
            )
    if config.get("bias", "none") != "none":
        raise UserError(f"{source} has bias={config['bias']}: it trains base biases; train with bias='none'")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_BASE_CHANGING):
        raise UserError(
            f"{source} has init_lora_weights={start}, which changes the base weights; save it converted to "
            "plain LoRA (path_initial_model_for_weight_conversion)"
        )


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except SafetensorError as error:
        raise UserError(f"cannot read {path}: {first_line(error)}; is the file complete?") from None
    except Exception as error:  # weights_only refuses in many ways
        raise UserError(f"cannot read {path} safely: {first_line(error)}; save it as safetensors") from None


def _pair(source: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Lora]:
    sides: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.match(key)
        if match is None:
            raise UserError(
                f"{source} has tensor {key}, which plain LoRA lacks{_diagnosis(key)}; train plain LoRA"
            )
        sides.setdefault(match["module"], {})[match["side"]] = tensor
    if not sides:
        raise UserError(f"{source} holds no LoRA weights; was the adapter saved after training?")
    return {name: _lora(source, config, name, sides[name]) for name in sorted(sides, key=module_order)}


def _diagnosis(key: str) -> str:
    reasons = {
        "magnitude_vector": " (DoRA)",
        "lora_embedding": " (an embedding LoRA)",
        "bias": " (a bias)",
        "modules_to_save": " (modules_to_save)",
    }
    return next((reason for part, reason in reasons.items() if part in key), "")


def _lora(source: str, config: Mapping[str, Any], name: str, sides: Mapping[str, Tensor]) -> Lora:
    if set(sides) != {"A", "B"}:
        raise UserError(
            f"{name} in {source} has lora_{''.join(sides)} only; the file is incomplete, save it again"
        )
    a, b = sides["A"], sides["B"]
    if not a.is_floating_point() or a.element_size() < 2 or a.dtype != b.dtype:
        raise UserError(
            f"{name} in {source} has dtypes {a.dtype} and {b.dtype}; save it as float32, bf16 or fp16"
        )
    if a.dim() != 2 or b.dim() != 2 or a.shape[0] != b.shape[1]:
        raise UserError(
            f"{name} in {source}: lora_A {tuple(a.shape)}, lora_B {tuple(b.shape)} do not fit; save it again"
        )
    if not (bool(a.isfinite().all()) and bool(b.isfinite().all())):
        raise UserError(
            f"{name} in {source} has NaN or infinite LoRA weights; the training diverged, retrain it"
        )
    if 0 in (*a.shape, *b.shape):
        raise UserError(f"{name} in {source} is empty, {tuple(b.shape)} x {tuple(a.shape)}; save it again")
    rank = int(_pattern(config.get("rank_pattern"), name, config.get("r", 8)))
    if rank != a.shape[0]:
        raise UserError(
            f"{name} in {source} has rank {a.shape[0]} but its config says {rank}; "
            "config and weights do not belong together, save it again"
        )
    alpha = float(_pattern(config.get("alpha_pattern"), name, config.get("lora_alpha", 8)))
    return Lora(a, b, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _pattern(patterns: Mapping[str, Any] | None, name: str, default: Any) -> Any:
    """PEFT's rule: the first pattern that matches the whole name, or its end after a dot."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return default


def file_digest(path: Path) -> str:
    """sha256 of a file, remembered until the file changes."""
    stat = path.stat()
    return _digest(str(path), stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=256)
def _digest(path: str, _mtime: int, _size: int) -> str:
    digest = sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_adapter(
    folder: Path,
    like: Adapter,
    modules: Iterable[tuple[str, tuple[Tensor, Tensor]]],
    rank: int,
    dtype: torch.dtype,
) -> None:
    """Write dW = b @ a per module as a plain PEFT folder with that one rank and scaling 1.

    modules: every module of `like`, in its order. Each is padded with zeros to `rank`, since servers such as
    vLLM ignore rank_pattern and alpha_pattern, and goes to the file before the next one is computed.
    """
    shapes: dict[str, tuple[int, int]] = {}
    for name, module in like.modules.items():
        shapes[f"{_PREFIX}{name}.lora_A.weight"] = (rank, module.a.shape[1])
        shapes[f"{_PREFIX}{name}.lora_B.weight"] = (module.b.shape[0], rank)
    with open(folder / WEIGHTS, "wb") as handle:
        handle.write(_header(shapes, dtype))
        for name, (a, b) in modules:
            handle.write(_bytes(a, dtype))
            handle.write(bytes((rank - a.shape[0]) * a.shape[1] * dtype.itemsize))
            wide = torch.zeros(b.shape[0], rank, dtype=dtype)
            wide[:, : b.shape[1]] = b
            if dtype == torch.float16 and not bool(wide.isfinite().all()):
                raise UserError(f"{name} overflows float16 once scaled; use dtype bfloat16 or float32")
            handle.write(_bytes(wide, dtype))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": like.base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "modules_to_save": None,
        # The full names are exact for any set of modules; short ones could match others of their kind.
        "target_modules": list(like.modules),
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _header(shapes: Mapping[str, tuple[int, int]], dtype: torch.dtype) -> bytes:
    """What a safetensors file starts with: its header's length (8 bytes, little-endian) and the header."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + shape[0] * shape[1] * dtype.itemsize
        entries[name] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": (offset, end)}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the data to 8 bytes
    return len(text).to_bytes(8, "little") + text


def _bytes(tensor: Tensor, dtype: torch.dtype) -> memoryview:
    return memoryview(
        tensor.to(dtype).contiguous().view(torch.uint8).numpy().reshape(-1)
    )  # numpy has no bfloat16
