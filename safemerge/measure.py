"""The similarity table of an adapter: rho of every module, one pass over the two checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from safemerge import subspace
from safemerge.adapters import Adapter, Lora, load_adapter
from safemerge.checkpoints import Checkpoint
from safemerge.errors import UserError
from safemerge.fit import check_shape, fitted
from safemerge.table import ModuleRow, kind_of, layer_of

Progress = Callable[[int, int, str], None]  # (modules done, modules in all, the one just done)


def open_checkpoint(reference: str | Path | Checkpoint) -> Checkpoint:
    """A checkpoint from a folder or hub id."""
    return reference if isinstance(reference, Checkpoint) else Checkpoint(reference)


def similarity_table(
    *,
    base: str | Path | Checkpoint,
    aligned: str | Path | Checkpoint,
    adapter: str | Path | Adapter,
    device: str = "cpu",
    progress: Progress | None = None,
    same_model: bool = False,
) -> list[ModuleRow]:
    """rho, its null and norms for each module of the adapter, in execution order.

    Reads only the adapted modules' weights, one pair at a time. UserError if the adapter is not plain LoRA,
    if it was trained on another model, or if a weight is missing, quantised, of another shape, NaN or
    infinite. same_model: as in `identity.check_base`.
    """
    models = open_checkpoint(base), open_checkpoint(aligned)
    lora = fitted(load_adapter(adapter), *models, same_model=same_model)
    rows = []
    check_device(device)
    for name, module in lora.modules.items():
        weights = _pair(name, module, *models)
        found = subspace.similarity(subspace.fold(module.a, module.b).to(device), *weights, module.scaling)
        del weights  # unmaps them before the next pair is mapped
        _check_finite(name, found.norm_v, *models)
        numbers = (found.rho, found.norm_task, found.norm_v, found.norm_projected)
        rows.append(ModuleRow(name, layer_of(name), kind_of(name), *numbers, found.flags, found.null))
        if progress:
            progress(len(rows), len(lora.modules), name)
    return rows


def subspaces(
    adapter: Adapter, base: Checkpoint, aligned: Checkpoint, names: list[str], device: str
) -> Iterator[tuple[str, Tensor, float]]:
    """(module, V = W_aligned - W_base, ||V||_F) for each name. V is a buffer that the next one overwrites."""
    check_device(device)
    buffer = torch.empty(0, device=device)
    for name in names:
        weights = _pair(name, adapter.modules[name], base, aligned)
        shape = weights[0].shape
        if buffer.numel() < shape.numel():
            buffer = torch.empty(shape.numel(), device=device)
        v = buffer[: shape.numel()].view(shape)
        norm_v = subspace.difference(*weights, out=v)
        del weights  # unmaps them before the next pair is mapped
        _check_finite(name, norm_v, base, aligned)
        yield name, v, norm_v


def _pair(name: str, lora: Lora, base: Checkpoint, aligned: Checkpoint) -> tuple[Tensor, Tensor]:
    """W_aligned and W_base of one module. UserError unless they fit each other and the adapter."""
    weights = aligned.weight(name), base.weight(name)
    check_shapes(name, lora, *weights)
    return weights


def check_device(device: str) -> None:
    """UserError if torch cannot use the device here."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"cannot use device {device}: {str(error).splitlines()[0]}; use cpu") from None


def _check_finite(name: str, norm_v: float, base: Checkpoint, aligned: Checkpoint) -> None:
    """UserError unless ||V|| is a number."""
    if not math.isfinite(norm_v):
        raise UserError(f"{name} of {aligned.reference} or {base.reference} has NaN or infinite weights")


def check_shapes(name: str, lora: Lora, aligned: Tensor, base: Tensor) -> None:
    """UserError unless base, aligned and LoRA factors all describe one d_out x d_in matrix."""
    if aligned.shape != base.shape:
        raise UserError(
            f"{name} is {tuple(aligned.shape)} in the aligned model and {tuple(base.shape)} in the base; "
            "they must be the same architecture"
        )
    check_shape(name, (lora.b.shape[0], lora.a.shape[1]), aligned)
