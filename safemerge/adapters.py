"""LoRA adapters in PEFT's folder format: reading, checking, and writing a plain one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from safemerge.checkpoints import load_bin
from safemerge.errors import UserError, first_line
from safemerge.files import check_whole, fetch, is_folder, read_json
from safemerge.names import PREFIX, embedding_key, lora_key
from safemerge.peft_config import CONFIG, check_config, diagnosis, rank_and_scaling
from safemerge.table import module_order
from safemerge.whole_files import file_hash

WEIGHTS, WEIGHTS_BIN = "adapter_model.safetensors", "adapter_model.bin"
_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


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
    """A checked LoRA adapter: module name -> factors, in execution order.

    embeddings: whole weights of the embedding and the output head, which PEFT saves beside LoRAs when the vocabulary was
    resized; as vocabulary x d. fitted_to: the model whose modules these are known to be, and notes: what that took.
    """

    source: str
    config: Mapping[str, Any]
    modules: Mapping[str, Lora]
    digest: str
    embeddings: Mapping[str, Tensor] = field(default_factory=dict)
    fitted_to: str = ""
    notes: tuple[str, ...] = ()

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.modules.values())).a.dtype

    @property
    def base(self) -> str:
        """The model it says it was trained on; empty if it does not say."""
        return self.config.get("base_model_name_or_path") or ""


def load_adapter(reference: str | Path | Adapter) -> Adapter:
    """Read and check a PEFT LoRA: a folder, or org/name, org/name/folder (@revision) on the hub.

    UserError, naming module and remedy, unless it is a plain LoRA.
    """
    if isinstance(reference, Adapter):
        return reference
    source = str(reference)
    if is_folder(source):
        _check_folder(Path(source).expanduser())
    path = fetch(source, CONFIG)
    assert path is not None
    config = read_json(path)
    check_config(source, config)
    weights = fetch(source, WEIGHTS, missing_ok=True) or fetch(source, WEIGHTS_BIN, missing_ok=True)
    if weights is None:
        raise UserError(f"{source} has no {WEIGHTS}; is it a PEFT adapter folder?")
    modules, embeddings = _sorted_out(source, config, _read(weights))
    return Adapter(source, config, modules, file_digest(weights), embeddings)


def _check_folder(folder: Path) -> None:
    """UserError, saying what it is instead, for a folder without an adapter's config."""
    if (folder / CONFIG).is_file():
        return
    inside = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
    what = "is it a PEFT adapter folder?"
    if inside:
        what = f"give one of the adapters in it: {', '.join(inside[:5])}"
    elif (folder / WEIGHTS).is_file() or (folder / WEIGHTS_BIN).is_file():
        what = "copy it too: without it the rank and lora_alpha are unknown"
    elif (folder / "config.json").is_file():
        what = "it is a whole model; give the adapter's folder"
    elif any(folder.glob("*.gguf")):
        what = "it holds a GGUF file; give the PEFT adapter that it was made from"
    raise UserError(f"{folder} has no {CONFIG}; {what}")


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        return load_bin(path)
    check_whole(path)
    try:
        return dict(load_file(path))
    except (
        Exception
    ) as error:  # SafetensorError, and whatever torch says of a dtype or shape that it does not know
        raise UserError(f"cannot read {path}: {first_line(error)}; is the file complete?") from None


def _sorted_out(
    source: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Lora], dict[str, Tensor]]:
    """The LoRA modules in execution order, and the whole weights saved beside them."""
    sides: dict[str, dict[str, Tensor]] = {}
    embeddings: dict[str, Tensor] = {}
    adapters = set()
    for key, tensor in tensors.items():
        found, embedding = lora_key(key), embedding_key(key)
        if found is not None:
            adapters.add(found.adapter)
            if sides.setdefault(found.module, {}).setdefault(found.side, tensor) is not tensor:
                raise UserError(
                    f"{source} has two tensors for lora_{found.side} of {found.module}, one is {key}; save it again"
                )
        elif embedding is not None and tensor.dim() == 2 and tensor.dtype in _NAMES:
            embeddings[embedding] = tensor
        else:
            raise UserError(
                f"{source} has tensor {key}, which plain LoRA lacks{diagnosis(key)}; train plain LoRA"
            )
    if len(adapters) > 1:
        raise UserError(
            f"{source} holds several adapters, {', '.join(map(repr, sorted(adapters)))}; save one alone"
        )
    if not sides:
        raise UserError(f"{source} holds no LoRA weights; was the adapter saved after training?")
    return {
        name: _lora(source, config, name, sides[name]) for name in sorted(sides, key=module_order)
    }, embeddings


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
    rank, scaling = rank_and_scaling(config, name)
    if rank != a.shape[0]:
        raise UserError(
            f"{name} in {source} has rank {a.shape[0]} but its config says {rank}; "
            "config and weights do not belong together, save it again"
        )
    return Lora(a, b, scaling)


def file_digest(path: Path) -> str:
    """sha256 of a file, remembered until the file changes."""
    stat = path.stat()
    return _digest(str(path), stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=256)
def _digest(path: str, _mtime: int, _size: int) -> str:
    return file_hash(Path(path))


def write_adapter(
    folder: Path,
    like: Adapter,
    modules: Iterable[tuple[str, tuple[Tensor, Tensor]]],
    rank: int,
    dtype: torch.dtype,
) -> None:
    """Write dW = b @ a per module as a plain PEFT folder with that one rank and scaling 1.

    modules: every module of `like`, in its order; its embeddings are written after them. Each is padded with
    zeros to `rank`, since many servers ignore rank_pattern and alpha_pattern, and goes to the file before the
    next one is computed.
    """
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    for name, module in like.modules.items():
        shapes[f"{PREFIX}{name}.lora_A.weight"] = (rank, module.a.shape[1]), dtype
        shapes[f"{PREFIX}{name}.lora_B.weight"] = (module.b.shape[0], rank), dtype
    for name, tensor in like.embeddings.items():
        base_layer = (
            ".base_layer" if name in like.modules else ""
        )  # where PEFT has it beside a LoRA of the same module
        shapes[f"{PREFIX}{name}{base_layer}.weight"] = tuple(tensor.shape), tensor.dtype
    with open(folder / WEIGHTS, "wb") as handle:
        handle.write(_header(shapes))
        for name, (a, b) in modules:
            handle.write(_bytes(a, dtype))
            handle.write(bytes((rank - a.shape[0]) * a.shape[1] * dtype.itemsize))
            wide = torch.zeros(b.shape[0], rank, dtype=dtype)
            wide[:, : b.shape[1]] = b
            if dtype == torch.float16 and not bool(wide.isfinite().all()):
                raise UserError(f"{name} overflows float16 once scaled; use dtype bfloat16 or float32")
            handle.write(_bytes(wide, dtype))
        for tensor in like.embeddings.values():
            handle.write(_bytes(tensor, tensor.dtype))
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


def _header(shapes: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> bytes:
    """What a safetensors file starts with: its header's length (8 bytes, little-endian) and the header."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (shape, dtype) in shapes.items():
        end = offset + prod(shape) * dtype.itemsize
        entries[name] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": (offset, end)}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the data to 8 bytes
    return len(text).to_bytes(8, "little") + text


def _bytes(tensor: Tensor, dtype: torch.dtype) -> memoryview:
    return memoryview(
        tensor.to(dtype).contiguous().view(torch.uint8).numpy().reshape(-1)
    )  # numpy has no bfloat16
