"""The repaired adapter merged into the aligned model's weights, shard by shard; and uploads to the hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from safemerge.adapters import Adapter, load_adapter
from safemerge.apply import complete_folder
from safemerge.checkpoints import INDEX, SINGLE, Checkpoint, fetch
from safemerge.errors import UserError, first_line
from safemerge.measure import open_checkpoint

# Everything else that a model folder needs beside its weights; absent ones are skipped.
COMPANIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)


def export_model(
    *,
    aligned: str | Path | Checkpoint,
    adapter: str | Path | Adapter,
    output: str | Path,
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, int]:
    """Write aligned + dW as a full model in the aligned model's dtype, in the memory of one shard.

    W + s B A is added in float32 and rounded once. Returns the counts of shards and of changed modules.
    UserError if a module has no weight there or another shape, or if output exists and overwrite is not set.
    """
    lora, model = load_adapter(adapter), open_checkpoint(aligned)
    changed = {model.find(name): name for name in lora.modules}
    files = sorted(set(model.shards.values()))
    names = _shard_names(files)
    with complete_folder(Path(output), overwrite) as folder:
        weight_map: dict[str, str] = {}
        size = 0
        for done, filename in enumerate(files, start=1):
            tensors: dict[str, Tensor] = {}
            for tensor_name in (name for name, shard in model.shards.items() if shard == filename):
                tensor = model.read(tensor_name)
                if tensor_name in changed:
                    tensor = _merged(lora, changed[tensor_name], tensor)
                tensors[tensor_name] = tensor.contiguous()
                weight_map[tensor_name] = names[filename]
                size += tensor.numel() * tensor.element_size()
            save_file(_unshared(tensors), folder / names[filename], metadata={"format": "pt"})
            if progress:
                progress(done, len(files), names[filename])
        if len(files) > 1:
            index = {"metadata": {"total_size": size}, "weight_map": weight_map}
            (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        for companion in COMPANIONS:
            path = fetch(model.reference, companion, missing_ok=True)
            if path is not None:
                shutil.copyfile(path, folder / companion)
    return {"shards": len(files), "modules": len(changed)}


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


def _merged(lora: Adapter, name: str, weight: Tensor) -> Tensor:
    module = lora.modules[name]
    if tuple(weight.shape) != (module.b.shape[0], module.a.shape[1]):
        raise UserError(
            f"{name} is {tuple(weight.shape)} in the model but the adapter is for "
            f"{(module.b.shape[0], module.a.shape[1])}; give the model that the adapter was trained on"
        )
    merged = torch.addmm(weight.float(), module.b.float(), module.a.float(), alpha=module.scaling)
    return merged.to(weight.dtype)


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
