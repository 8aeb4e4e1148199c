"""Model weights read one tensor at a time from safetensors (or .bin) checkpoints, local or on the hub."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from safemerge.errors import UserError, first_line
from safemerge.files import check_whole, fetch, looks_like_hub_id, read_json, weight_map
from safemerge.names import EMBEDDING, HEAD, inner, without_quantisation

_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# Ends of tensor names that only quantised checkpoints have: GPTQ, AWQ, bitsandbytes, compressed-tensors, fp8, AQLM, HQQ.
_QUANTISED = (".qweight", ".qzeros", ".g_idx", ".SCB", ".absmax", ".nested_absmax", ".quant_map", ".weight_packed",
              ".weight_scale", ".weight_scale_inv", ".weight_zero_point", ".codebooks", ".W_q")  # fmt: skip


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
        """config.json; empty without one."""
        path = fetch(self.reference, "config.json", missing_ok=True)
        return read_json(path) if path else {}

    @cached_property
    def shards(self) -> dict[str, str]:
        """Tensor name -> file name. UserError if the weights are quantised: W_aligned - W_base needs plain ones.

        Not if config.json says so: a `quantization_config` is also left over in checkpoints that were made 16-bit again.
        """
        _ = self.config  # a malformed one is named before any weights are fetched
        single, found = weight_map(self.reference)
        if single is not None:
            path = fetch(self.reference, single)
            assert path is not None
            found = dict.fromkeys(self._names(path), single)
        odd = next((name for name in found if name.endswith(_QUANTISED) or ".quant_state." in name), None)
        if odd is not None:
            raise self._quantised(f"it has {odd}")
        return found

    @cached_property
    def _by_inner_name(self) -> dict[str, str]:
        """Tensor name by the name without what depends on the model's class."""
        return {inner(name): name for name in reversed(self.shards)}

    def find(self, module: str) -> str:
        """The tensor name of a module's weight.

        The parts before `layers` may differ: bare decoders lack `model.`, multimodal models have `language_model.` in one
        place or the other. A head that is tied to the embedding has its weight.
        """
        if f"{module}.weight" in self.shards:
            return f"{module}.weight"
        found = self._by_inner_name.get(f"{inner(module)}.weight")
        if found is None and inner(module) == HEAD and self.config.get("tie_word_embeddings") is not False:
            found = self._by_inner_name.get(f"{EMBEDDING}.weight")
        if found is None:
            raise UserError(
                f"module {module} of the adapter has no weight in {self.reference}; is it the right model?"
            )
        return found

    @property
    def multimodal(self) -> bool:
        """Whether its language model is a part of it."""
        return bool({"vision_config", "text_config", "audio_config"}.intersection(self.config)) or any(
            name.startswith(("model.language_model.", "language_model.")) for name in self.shards
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
        if tensor.dtype not in _FLOATS:
            raise self._quantised(f"{module} is stored as {str(tensor.dtype).removeprefix('torch.')}")
        if tensor.dim() != 2:
            raise UserError(
                f"{module} of {self.reference} has shape {tuple(tensor.shape)} and is no matrix; is it the right model?"
            )
        return tensor

    def _quantised(self, seen: str) -> UserError:
        """What is said of a quantised checkpoint, with what is known of how it was quantised and of what."""
        settings = self.config.get("quantization_config")
        method = settings.get("quant_method") if isinstance(settings, dict) else None
        plain = without_quantisation(self.reference) if looks_like_hub_id(self.reference) else ""
        such = f", such as {plain}" if plain and plain != self.reference.lower() else ""
        return UserError(
            f"{self.reference} is quantised ({f'{method}: ' if method else ''}{seen}); give the bf16 or fp16 checkpoint "
            f"that it was made from{such}"
        )

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
        check_whole(path)
        try:
            with safe_open(path, framework="pt") as handle:
                return use(handle)
        except (SafetensorError, OSError) as error:
            raise UserError(f"cannot read {path}: {first_line(error)}; is the file complete?") from None

    def _load_bin(self, path: Path) -> dict[str, Tensor]:
        if path not in self._bins:
            self._bins[path] = load_bin(path)
        return self._bins[path]


def load_bin(path: Path) -> dict[str, Tensor]:
    """The tensors of a .bin file by name, mapped into memory where its format allows that (not before torch 1.6).

    No code in it is run. UserError if it cannot be read so, or holds anything else.
    """
    check_whole(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a pickle can fail in any way; none of them may run code (weights_only)
        raise UserError(f"cannot read {path} safely: {first_line(error)}; save it as safetensors") from None
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in loaded.items()
    ):
        raise UserError(
            f"{path} holds something else than tensors by name; save the state_dict as safetensors"
        )
    return loaded
