"""Model weights read one tensor at a time from safetensors (or .bin) checkpoints, local or on the hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from safemerge import hub
from safemerge.errors import UserError, first_line

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
BIN_SINGLE = "pytorch_model.bin"
BIN_INDEX = "pytorch_model.bin.index.json"
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def split_reference(reference: str) -> tuple[str, str | None]:
    """'org/name@revision' -> ('org/name', 'revision'); a local folder is returned as it is."""
    if Path(reference).exists() or "@" not in reference:
        return reference, None
    name, revision = reference.rsplit("@", 1)
    return name, revision


def fetch(reference: str, filename: str, *, missing_ok: bool = False) -> Path | None:
    """The local path of one file of a model: in its folder, or downloaded from the hub.

    UserError if the model cannot be had at all; None if only this file is absent and missing_ok is set.
    """
    folder = Path(reference).expanduser()
    if folder.is_dir():
        path = folder / filename
        if path.is_file():
            return path
        if missing_ok:
            return None
        raise UserError(f"{folder} has no {filename}; is it a model folder, and is it complete?")
    if folder.is_absolute() or reference.startswith((".", "~")) or reference.count("/") > 1:
        raise UserError(f"no folder {reference}; give an existing folder or a hub id such as org/name")
    name, revision = split_reference(reference)
    return hub.file(hub.Repo(name, revision), filename, missing_ok=missing_ok)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. UserError if it is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {first_line(error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object, not a {type(content).__name__}")
    return content


class Checkpoint:
    """Lazy access to a model's tensors by name. Nothing is opened or downloaded before it is asked for.

    A tensor is a view of the memory-mapped file, and the map goes when the tensor does: reading one module
    after another keeps the resident memory at one module.
    """

    def __init__(self, reference: str | Path) -> None:
        self.reference = str(reference)
        self._bins: dict[Path, dict[str, Tensor]] = {}

    def __repr__(self) -> str:
        return f"Checkpoint({self.reference!r})"

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json. UserError if the weights are quantised: W_aligned - W_base needs plain ones."""
        path = fetch(self.reference, "config.json", missing_ok=True)
        config = read_json(path) if path else {}
        if config.get("quantization_config"):
            method = config["quantization_config"].get("quant_method", "unknown method")
            raise UserError(
                f"{self.reference} is quantised ({method}); give the original bf16 or fp16 checkpoint"
            )
        return config

    @cached_property
    def shards(self) -> dict[str, str]:
        """Tensor name -> file name."""
        _ = self.config  # refuse a quantised model before fetching its weights
        for index, single in ((INDEX, SINGLE), (BIN_INDEX, BIN_SINGLE)):
            path = fetch(self.reference, index, missing_ok=True)
            if path is not None:
                return dict(read_json(path).get("weight_map") or {})
            path = fetch(self.reference, single, missing_ok=True)
            if path is not None:
                return dict.fromkeys(self._names(path), single)
        raise UserError(
            f"{self.reference} has neither {SINGLE} nor {INDEX} (nor {BIN_SINGLE}); is it a model folder?"
        )

    def find(self, module: str) -> str:
        """The tensor name of a module's weight; checkpoints of bare decoders lack the leading 'model.'."""
        for name in (module, f"model.{module}", module.removeprefix("model.")):
            if f"{name}.weight" in self.shards:
                return f"{name}.weight"
        for suffix in ("qweight", "weight_packed", "SCB"):
            if f"{module}.{suffix}" in self.shards:
                raise UserError(f"{module} of {self.reference} is quantised; give the original checkpoint")
        raise UserError(
            f"module {module} of the adapter has no weight in {self.reference}; is it the right model?"
        )

    def read(self, name: str) -> Tensor:
        """One tensor by its name in the checkpoint, on the CPU, in its stored dtype."""
        path = self._path(name)
        if path.suffix != ".safetensors":
            return self._load_bin(path)[name]
        return self._open(path, lambda handle: handle.get_tensor(name))

    def weight(self, module: str) -> Tensor:
        """A linear module's weight, d_out x d_in, memory-mapped. UserError unless a plain float matrix."""
        tensor = self.read(self.find(module))
        if tensor.dtype not in _FLOATS or tensor.dim() != 2:
            raise UserError(
                f"{module} of {self.reference} is {tensor.dtype} of shape {tuple(tensor.shape)}, "
                "not a float matrix; give the original, unquantised checkpoint"
            )
        return tensor

    def fingerprint(self) -> str:
        """sha256 of config.json, the tensor table, and the size, head and tail (1 MiB each) of every shard.

        It tells checkpoints apart without reading gigabytes. Shards not downloaded are left out.
        """
        digest = sha256(json.dumps(self.config, sort_keys=True).encode())
        digest.update(json.dumps(self.shards, sort_keys=True).encode())
        for filename in sorted(set(self.shards.values())):
            path = Path(self.reference).expanduser() / filename
            if not path.is_file():
                continue
            size = path.stat().st_size
            with open(path, "rb") as handle:
                digest.update(size.to_bytes(8, "little") + handle.read(1 << 20))
                handle.seek(max(0, size - (1 << 20)))
                digest.update(handle.read())
        return digest.hexdigest()

    def _path(self, name: str) -> Path:
        if name not in self.shards:
            raise UserError(f"{self.reference} has no tensor {name}")
        path = fetch(self.reference, self.shards[name])
        assert path is not None
        return path

    def _names(self, path: Path) -> list[str]:
        if path.suffix != ".safetensors":
            return list(self._load_bin(path))
        names: list[str] = self._open(path, lambda handle: list(handle.keys()))
        return names

    def _open(self, path: Path, use: Callable[[Any], Any]) -> Any:
        try:
            with safe_open(path, framework="pt") as handle:
                return use(handle)
        except (SafetensorError, OSError) as error:
            raise UserError(f"cannot read {path}: {first_line(error)}; is the file complete?") from None

    def _load_bin(self, path: Path) -> dict[str, Tensor]:
        if path not in self._bins:
            try:
                loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except (
                Exception
            ) as error:  # a pickle can fail in any way; none of them may run code (weights_only)
                raise UserError(
                    f"cannot read {path} safely: {first_line(error)}; convert it to safetensors"
                ) from None
            self._bins[path] = loaded
        return self._bins[path]
