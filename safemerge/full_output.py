"""The files of a repaired model: the fine-tuned model's own, with some weights written over in place."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from safemerge.checkpoints import Checkpoint
from safemerge.errors import UserError
from safemerge.files import INDEX, SINGLE, companions, fetch
from safemerge.full_models import FullModel


def check_output(output: Path, task: FullModel, inputs: Sequence[str]) -> None:
    """UserError if the output would replace one of the inputs, or if the disk has no room for a second model."""
    target = output.expanduser().resolve()
    for reference in inputs:
        folder = Path(reference).expanduser()
        if folder.is_dir() and folder.resolve().is_relative_to(target):
            raise UserError(f"output {output} holds the input {reference}; give another folder")
    needed = sum(path.stat().st_size for path in shards(task.model).values())
    parent = next(folder for folder in target.parents if folder.is_dir())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise UserError(
            f"the repaired model needs {needed / 2**30:.2f} GiB and {parent} has {free / 2**30:.2f} GiB free; "
            "free some, or give an output on another disk"
        )


def shards(model: Checkpoint) -> dict[str, Path]:
    """File name -> local path of each shard, fetched from the hub where it must be."""
    found: dict[str, Path] = {}
    for name in sorted(set(model.shards.values())):
        path = fetch(model.reference, name)
        assert path is not None
        found[name] = path
    return found


def copy_files(model: Checkpoint, folder: Path) -> None:
    """Copy the weights, and what else loading a model may need, into a folder."""
    files = shards(model)
    for name, path in files.items():
        shutil.copyfile(path, folder / name)
    beside = companions(model.reference)
    if list(files) != [SINGLE]:
        index = fetch(model.reference, INDEX, missing_ok=True)
        beside |= {INDEX: index} if index else {}
    for name, path in beside.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)


def write_over(folder: Path, model: Checkpoint, tensors: Mapping[str, Iterable[Tensor]]) -> None:
    """Put new values in the place of copied tensors. tensors: name -> its rows in blocks, none to keep it."""
    for filename in sorted({model.shards[name] for name in tensors}):
        with open(folder / filename, "r+b") as handle:
            start = 8 + int.from_bytes(handle.read(8), "little")
            header = json.loads(handle.read(start - 8))
            for name, blocks in tensors.items():
                if model.shards[name] == filename:
                    handle.seek(start + header[name]["data_offsets"][0])
                    for block in blocks:
                        handle.write(memoryview(block.contiguous().view(torch.uint8).numpy().reshape(-1)))


def untouched(task: FullModel, aligned: Checkpoint) -> tuple[list[str], list[str]]:
    """What is neither measured nor repaired, a line per kind; and the kinds that differ from the aligned model's."""
    total: Counter[str] = Counter()
    changed: Counter[str] = Counter()
    for name in task.others:
        kind = re.sub(r"\.\d+(?=\.)", ".*", name)
        total[kind] += 1
        changed[kind] += name not in aligned.shards or not _same(task.model.read(name), aligned.read(name))
    lines = [f"`{kind}`: {total[kind]}, {changed[kind]} unlike the aligned model's" for kind in total]
    return lines, [kind for kind in total if changed[kind]]


def _same(left: Tensor, right: Tensor) -> bool:
    if left.shape != right.shape:
        return False
    if left.dtype == right.dtype or left.dim() == 0:
        return bool(torch.equal(left, right.to(left.dtype)))
    return all(
        torch.equal(x.double(), y.double()) for x, y in zip(left.split(64), right.split(64), strict=True)
    )
