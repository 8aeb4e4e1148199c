"""Adapters and models as other tools leave them: pico ones, rewritten."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import safemerge
from tests.pico import build_model

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
P = "base_model.model."
Q = "model.layers.0.self_attn.q_proj"
Tensors = dict[str, torch.Tensor]


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def rekeyed(folder: Path, spell: Callable[[str], str], file: str = "adapter_model.safetensors") -> Path:
    """The same tensors under other names."""
    return rewritten(folder, lambda tensors: {spell(key): its for key, its in tensors.items()}, file)


def rewritten(
    folder: Path, change: Callable[[Tensors], Tensors], file: str = "adapter_model.safetensors"
) -> Path:
    save_file(change(load_file(folder / file)), folder / file)
    return folder


def configured(folder: Path, file: str = "adapter_config.json", **settings: Any) -> Path:
    """Settings changed in a config file; `...` takes one out."""
    path = folder / file
    config = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))
    return folder


def with_stale_index(model: Path, *, shards: bool) -> Path:
    """The index of another model, saved here before in shards, which are still there or gone."""
    old = model / "old"
    build_model(seed=7).save_pretrained(old, max_shard_size="20KB")
    for path in old.glob("model-*" if shards else "nothing"):
        shutil.copy(path, model)
    shutil.copy(old / "model.safetensors.index.json", model)
    shutil.rmtree(old)
    return model


def as_bin(model: Path, *, zipped: bool = True) -> Path:
    """Its weights as pytorch_model.bin, in torch's format of today or of before 1.6."""
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    torch.save(tensors, model / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    return model


class FakeHub:
    """Repositories that are folders here, and what the hub says of names. `asked`: the files that were fetched."""

    def __init__(self, patch: pytest.MonkeyPatch, folders: Mapping[str, Path], **others: set[str]) -> None:
        import huggingface_hub

        from safemerge import hub

        self.folders, self.asked = dict(folders), []
        patch.setattr(huggingface_hub, "hf_hub_download", self.download)
        patch.setattr(huggingface_hub, "snapshot_download", self.snapshot)
        patch.setattr(hub, "exists", lambda repo, name: (self.folders[repo.id] / name).is_file())
        patch.setattr(hub, "other_names", lambda repo: others.get(repo.id.replace("/", "__"), set()))

    def download(self, name: str, filename: str, *, repo_type: str, revision: str | None) -> str:
        from huggingface_hub import errors

        if name not in self.folders or not (self.folders[name] / filename).is_file():
            raise errors.EntryNotFoundError(filename)
        self.asked.append((name, filename, revision))
        return str(self.folders[name] / filename)

    def snapshot(self, name: str, **_: Any) -> str:
        return str(self.folders[name])


@dataclass(frozen=True)
class Pair:
    """A base and an aligned model, folders or hub ids."""

    base: Path | str
    aligned: Path | str


def repaired(
    pair: Pair, output: Path, task: Path | str, safety: Path | str, **options: Any
) -> safemerge.Repaired:
    """All modules blended half and half."""
    return safemerge.repair(base=pair.base, aligned=pair.aligned, task_adapter=task, safety_adapter=safety,
                            output=output, tau=2.0, alpha=0.5, **options)  # fmt: skip


def written(file: str, content: bytes, without: str = "") -> Callable[[Path], Path]:
    def change(folder: Path) -> Path:
        (folder / file).write_bytes(content)
        if without:
            (folder / without).unlink()
        return folder

    return change


def vocabulary(folder: Path, tokens: list[str], added: Mapping[str, int] | None = None) -> None:
    found = {"model": {"type": "BPE", "vocab": {token: i for i, token in enumerate(tokens)}},
             "added_tokens": [{"content": token, "id": i} for token, i in (added or {}).items()]}  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(found))
