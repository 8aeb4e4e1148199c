"""Full fine-tunes of a pico model, each also as the LoRA that it is written out from."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from safemerge import export_model
from tests.pico import save_pair, write_lora


@dataclass(frozen=True)
class Pair:
    """Two models, and a task and a safety fine-tune, each as a LoRA and written out as a full model in float32."""

    base: Path
    aligned: Path
    task: Path
    safety: Path
    task_lora: Path
    safety_lora: Path

    @property
    def models(self) -> dict[str, Any]:
        return {"base": self.base, "aligned": self.aligned}

    @property
    def loras(self) -> dict[str, Any]:
        return {**self.models, "task_adapter": self.task_lora, "safety_adapter": self.safety_lora}

    @property
    def full(self) -> dict[str, Any]:
        return {**self.models, "task_model": self.task, "safety_model": self.safety}


def make_pair(folder: Path, shapes: dict[str, tuple[int, int]] | None = None) -> Pair:
    """The updates are an eighth of the weights they change."""
    base, aligned = save_pair(folder)
    found = []
    for seed, name in enumerate(("task", "safety"), start=1):
        lora = write_lora(folder / f"{name}-lora", alpha=0.05, seed=seed, base=str(aligned), shapes=shapes)
        export_model(aligned=aligned, adapter=lora, output=folder / name)
        found += [folder / name, lora]
    return Pair(base, aligned, found[0], found[2], found[1], found[3])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a model, from whatever shards."""
    return {
        name: tensor
        for path in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def resave(folder: Path, target: Path, dtype: torch.dtype, **save_options: Any) -> Path:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(folder).to(dtype).save_pretrained(target, **save_options)
    return target


def change(folder: Path, target: Path, **tensors: Any) -> Path:
    """A copy of a one-file model with some tensors put in its place; None takes one out."""
    shutil.copytree(folder, target)
    found = {
        **load_file(folder / "model.safetensors"),
        **{k.replace("/", "."): v for k, v in tensors.items()},
    }
    save_file({k: v for k, v in found.items() if v is not None}, target / "model.safetensors")
    return target
