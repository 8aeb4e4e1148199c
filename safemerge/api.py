"""What the library offers: measure rho, look at it, repair an adapter. The command `safemerge` is these three on argv."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from safemerge import methods
from safemerge.adapters import Adapter, load_adapter
from safemerge.apply import repair_adapter
from safemerge.checkpoints import Checkpoint
from safemerge.errors import UserError
from safemerge.fit import fitted
from safemerge.measure import Progress, open_checkpoint, similarity_table
from safemerge.selection import TAUS, Point, Selection, Tau, check_tau, resolve_tau, select
from safemerge.table import ModuleRow

Model = str | Path | Checkpoint
Lora = str | Path | Adapter


@dataclass(frozen=True)
class Inspection:
    """rho of every module, in execution order, and how many modules each threshold would merge.

    notes: what a reader should know, such as that the adapter records another name of the aligned model.
    """

    rows: list[ModuleRow]
    merged: dict[Tau, int]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Repaired:
    """A repaired adapter: where it lies, what was measured, and what was done to it.

    tau: the number that the threshold came to, None for methods without one. selected: the names of the modules that were
    repaired. rank: of every module of the written adapter. svd_error: the largest relative error of a truncation to
    `rank=`, None without one. shrink: what a projection multiplied the length of its modules' updates by, the median, None
    for other repairs. notes: what a reader should know, such as modules that only one of the adapters has.
    """

    output: Path
    point: Point
    tau: float | None
    rows: list[ModuleRow]
    selected: list[str]
    modules: int
    rank: int
    svd_error: float | None = None
    shrink: float | None = None
    notes: list[str] = field(default_factory=list)


def similarity(
    *,
    base: Model,
    aligned: Model,
    task_adapter: Lora,
    same_model: bool = False,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[ModuleRow]:
    """rho = cos(dW, C dW) of every module that a LoRA adapter adapts (SafeMERGE, Djuhera et al. 2025).

    With V = W_aligned - W_base (d_out x d_in) and dW = s B A of the adapter, C = V V^T / ||V||_F; rho near 1: the update
    stayed in the safety subspace, near 0: it left it. C is never built (`safemerge.subspace` has the closed form), and the
    adapted layers' weights are read once.

    Args:
        base: the pretrained model before alignment: a Checkpoint, a folder, or a hub id (org/name, or org/name/folder for a
            folder in a repository; @revision may follow).
        aligned: its chat version, on which the adapter was trained.
        task_adapter: a PEFT LoRA folder, a hub id, or an Adapter.
        same_model: the model that the adapter records is the aligned one under another name. Mirrors and quantised copies
            are known without it.
        device: where to compute; weights are read from disk one module at a time.
        progress: called with (modules done, modules in all, name of the last one).

    Returns:
        A row per module in execution order: module, layer, kind, rho, the Frobenius norms of dW, V and C dW, and flags. rho
        is 0 and flagged where dW or V is zero.

    Raises:
        UserError: not a plain LoRA, trained on another model, or a weight that is missing, quantised, misshapen or NaN.
    """
    return similarity_table(
        base=base,
        aligned=aligned,
        adapter=task_adapter,
        device=device,
        progress=progress,
        same_model=same_model,
    )


def inspect(
    *,
    base: Model,
    aligned: Model,
    task_adapter: Lora,
    taus: Sequence[Tau] = TAUS,
    same_model: bool = False,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Inspection:
    """`similarity`, and how many modules SafeMERGE would merge at each threshold; nothing is written.

    Args:
        taus: thresholds on rho, numbers or quantiles of this adapter's own rho such as "q0.5".
        base, aligned, task_adapter, same_model, device, progress: as in `similarity`.

    Raises:
        UserError: as `similarity`, and for a threshold that is neither.
    """
    wanted = [check_tau(tau) for tau in taus]
    models = open_checkpoint(base), open_checkpoint(aligned)
    task = fitted(load_adapter(task_adapter), *models, same_model=same_model)
    rows = similarity(base=models[0], aligned=models[1], task_adapter=task, device=device, progress=progress)
    counts = {tau: len(select(rows, Selection("below", tau=tau))) for tau in wanted}
    return Inspection(rows, counts, list(task.notes))


def repair(
    *,
    base: Model,
    aligned: Model,
    task_adapter: Lora,
    safety_adapter: Lora | None = None,
    output: str | Path,
    tau: Tau = methods.TAU,
    alpha: float = methods.ALPHA,
    combine: str = "exact",
    point: Point | None = None,
    same_model: bool = False,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Repaired:
    """Repair a fine-tuned LoRA adapter and write it as an ordinary PEFT folder, with a model card and similarity.csv.

    SafeMERGE: the modules with rho < tau become alpha dW_task + (1 - alpha) dW_safety, the others stay as they are
    (Djuhera et al. 2025).

    Args:
        base, aligned, task_adapter, device, progress: as in `similarity`; same_model: likewise, of both adapters.
        safety_adapter: a LoRA trained on refusals from the same aligned model; methods that blend nothing need none.
        output: the folder to write; it appears when complete.
        tau: threshold on rho, a number or a quantile of this adapter's own rho such as "q0.5".
        alpha: weight of the task adapter, in [0, 1]; the safety adapter gets 1 - alpha.
        combine: "exact" is the formula, at the sum of the ranks. "peft_linear" is what the official code does, PEFT's
            linear merge of A and B apart, which needs equal ranks.
        point: any other method or setting in place of tau, alpha and combine, such as
            `safemerge.methods.resta(gamma=0.5)[0]`.
        dtype: of the written weights, the task adapter's by default.
        overwrite: replace the output if it exists.

    Raises:
        UserError: bad input, or the output exists; nothing half-written is left.
    """
    chosen = point or methods.safemerge(tau=tau, alpha=alpha, combine=combine)[0]
    if chosen.needs_safety and safety_adapter is None:
        raise UserError(f"{chosen.method} needs a safety adapter; safelora and scale do without")
    models = open_checkpoint(base), open_checkpoint(aligned)
    task = fitted(load_adapter(task_adapter), *models, same_model=same_model)
    safety = load_adapter(safety_adapter) if chosen.needs_safety and safety_adapter is not None else None
    safety = safety and fitted(safety, *models, same_model=same_model)
    rows = similarity(base=models[0], aligned=models[1], task_adapter=task, device=device, progress=progress)
    number = None if chosen.tau is None else resolve_tau(chosen.tau, rows)
    card: dict[str, Any] = {"method": chosen.method, "tau": number, "tau setting": chosen.tau_setting}
    for name, model in zip(("base", "aligned"), models, strict=True):
        card[name] = model.reference
        card[f"{name} fingerprint"] = model.fingerprint()
    info = repair_adapter(
        task=task,
        safety=safety,
        selected=select(rows, chosen.selection),
        repair=chosen.repair,
        output=output,
        base=models[0],
        aligned=models[1],
        dtype=dtype,
        card=card,
        rows=rows,
        device=device,
        overwrite=overwrite,
    )
    found = {key: info[key] for key in ("selected", "modules", "rank", "svd_error", "shrink", "notes")}
    return Repaired(output=Path(output), point=chosen, tau=number, rows=rows, **found)
