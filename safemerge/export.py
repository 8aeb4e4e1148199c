"""The repaired adapter merged into the aligned model's weights, shard by shard; and uploads to the hub."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from safemerge.adapters import Adapter, load_adapter
from safemerge.apply import complete_folder
from safemerge.checkpoints import Checkpoint
from safemerge.errors import UserError, first_line
from safemerge.files import INDEX, SINGLE, companions
from safemerge.fit import fitted
from safemerge.measure import open_checkpoint
from safemerge.names import HEAD, inner


def export_model(
    *,
    aligned: str | Path | Checkpoint,
    adapter: str | Path | Adapter,
    output: str | Path,
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
    same_model: bool = False,
) -> dict[str, int]:
    """Write aligned + dW as a full model in the aligned model's dtype, in the memory of one shard.

    W + s B A is added in float32 and rounded once. A head that was tied to the embedding becomes a weight of its own, since
    the embedding must not change with it. Tokenizer, settings and the model's own code are copied; of an adapter with
    another vocabulary, its embeddings and tokenizer are taken. same_model: as in `safemerge.repair`.

    Returns the counts of shards and of changed modules.
    UserError if the adapter is of another model, a module has no weight there or another shape, or output exists and
    overwrite is not set.
    """
    model = open_checkpoint(aligned)
    lora = fitted(load_adapter(adapter), None, model, same_model=same_model)
    beside = companions(model.reference)
    if lora.embeddings:
        beside |= companions(lora.source, tokenizer=True)
    files = sorted(set(model.shards.values()))
    names = _shard_names(files)
    changes = _changes(lora, model)
    with complete_folder(Path(output), overwrite) as folder:
        weight_map: dict[str, str] = {}
        size = 0
        for done, filename in enumerate(files, start=1):
            tensors: dict[str, Tensor] = {}
            for source in (name for name, shard in model.shards.items() if shard == filename):
                tensor = model.read(source)
                for name, change in changes.get(source, {source: None}).items():
                    tensors[name] = _changed(lora, change, tensor).contiguous()
                    weight_map[name] = names[filename]
                    size += tensors[name].numel() * tensors[name].element_size()
            save_file(_unshared(tensors), folder / names[filename], metadata={"format": "pt"})
            if progress:
                progress(done, len(files), names[filename])
        if len(files) > 1:
            index = {"metadata": {"total_size": size}, "weight_map": weight_map}
            (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        for name, path in beside.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)
        config = _config(lora, model)
        if config != model.config:
            (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return {"shards": len(files), "modules": len(lora.modules)}


def _changes(lora: Adapter, model: Checkpoint) -> dict[str, dict[str, str | Tensor | None]]:
    """What becomes of each tensor that does not stay as it is: the new ones, each by a LoRA, as given, or unchanged."""
    changes: dict[str, dict[str, str | Tensor | None]] = {}
    for name, tensor in lora.embeddings.items():
        changes[model.find(name)] = {model.find(name): tensor}
    for name in lora.modules:
        source = model.find(name)
        if (
            inner(name) == HEAD and inner(source) != f"{HEAD}.weight"
        ):  # tied: the embedding stays, beside a new head
            outer = "language_model." if source.startswith("language_model.") else ""
            changes[source] = {**changes.get(source, {source: None}), f"{outer}{HEAD}.weight": name}
        else:
            changes[source] = {source: name}
    return changes


def _changed(lora: Adapter, change: str | Tensor | None, tensor: Tensor) -> Tensor:
    if isinstance(change, Tensor):
        return change.to(tensor.dtype)
    if change is None:
        return tensor
    module = lora.modules[change]
    merged = torch.addmm(tensor.float(), module.b.float(), module.a.float(), alpha=module.scaling)
    return merged.to(tensor.dtype)


def _config(lora: Adapter, model: Checkpoint) -> dict[str, Any]:
    """The model's config.json, with what the export changed in it; what a former quantisation left there goes."""
    config = copy.deepcopy(model.config)
    config.pop("quantization_config", None)
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else None
    if any(inner(name) == HEAD for name in lora.modules):
        for part in filter(None, (config, text)):
            part["tie_word_embeddings"] = False
    for tensor in lora.embeddings.values():
        (config if text is None else text)["vocab_size"] = len(tensor)
    return config


def push_to_hub(folder: str | Path, repository: str, *, private: bool = True) -> str:
    """Upload a folder to a model repository on the hub, made if absent; returns its address."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        api = huggingface_hub.HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        return str(api.upload_folder(folder_path=str(folder), repo_id=repository))
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError, ValueError) as error:
        raise UserError(
            f"cannot push to {repository}: {first_line(error)}; log in with `hf auth login`, check the name"
        ) from None


def _shard_names(files: list[str]) -> dict[str, str]:
    if len(files) == 1:
        return {files[0]: SINGLE}
    return {name: f"model-{i:05d}-of-{len(files):05d}.safetensors" for i, name in enumerate(files, start=1)}


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """safetensors refuses tensors that share memory, as tied weights in a .bin do."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        result[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return result
