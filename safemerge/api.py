"""What the library offers: measure rho, look at it, repair an adapter or a full fine-tune.

The command `safemerge` is these three on argv.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from safemerge import full_repair, methods
from safemerge.adapters import Adapter, load_adapter
from safemerge.apply import repair_adapter
from safemerge.checkpoints import Checkpoint
from safemerge.errors import UserError
from safemerge.fit import fitted, renamed
from safemerge.full_models import FullModel, check_safety, open_full, similarity_of_model
from safemerge.full_output import check_output
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
    """A repaired adapter or model: where it lies, what was measured, and what was done to it.

    tau: the number that the threshold came to, of "n1.5" 1.5, None for methods without one. selected: the names of the
    modules that were repaired. rank: of every module of the written adapter, None for a model. svd_error: the largest
    relative error of a truncation to `rank=`, None without one. shrink: what a projection multiplied the length of its
    modules' updates by, the median, None for other repairs. rounding: of a model, what storing the repaired weights in its
    dtype changed, as a share of the repaired dW, the median; None for an adapter, and where it is nothing. notes: what a
    reader should know, such as modules that only one of the adapters has.
    """

    output: Path
    point: Point
    tau: float | None
    rows: list[ModuleRow]
    selected: list[str]
    modules: int
    rank: int | None
    svd_error: float | None = None
    shrink: float | None = None
    rounding: float | None = None
    notes: list[str] = field(default_factory=list)


def similarity(
    *,
    base: Model,
    aligned: Model,
    task_adapter: Lora | None = None,
    task_model: Model | None = None,
    lm_head: bool = False,
    same_model: bool = False,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[ModuleRow]:
    """rho = cos(dW, C dW) of every module that a LoRA adapter or a full fine-tune changed (SafeMERGE, Djuhera et al. 2025).

    With V = W_aligned - W_base (d_out x d_in) and dW = s B A of the adapter, or W_task - W_aligned of the fine-tuned model,
    C = V V^T / ||V||_F; rho near 1: the update stayed in the safety subspace, near 0: it left it. C is never built
    (`safemerge.subspace` has the closed form, `safemerge.full_update` the products), and the weights are read once.

    Args:
        base: the pretrained model before alignment: a Checkpoint, a folder, or a hub id (org/name, or org/name/folder for a
            folder in a repository; @revision may follow).
        aligned: its chat version, on which the adapter was trained.
        task_adapter: a PEFT LoRA folder, a hub id, or an Adapter.
        task_model: in place of it a full-parameter fine-tune of the aligned model, in safetensors.
        lm_head: of a full fine-tune, whether the output head is measured (and repaired) too.
        same_model: the model that the adapter records is the aligned one under another name. Mirrors and quantised copies
            are known without it.
        device: where to compute; weights are read from disk one module at a time.
        progress: called with (modules done, modules in all, name of the last one).

    Returns:
        A row per module in execution order: module, layer, kind, rho and its null (`safemerge.null`), the Frobenius norms
        of dW, V and C dW, and flags. rho is 0 and flagged where dW or V is zero.

    Raises:
        UserError: not a plain LoRA, trained on another model, or a weight that is missing, quantised, misshapen or NaN.
    """
    models = open_checkpoint(base), open_checkpoint(aligned)
    task = _task(task_adapter, task_model, lm_head, models, same_model)
    return _similarity(*models, task, device, progress)


def inspect(
    *,
    base: Model,
    aligned: Model,
    task_adapter: Lora | None = None,
    task_model: Model | None = None,
    lm_head: bool = False,
    taus: Sequence[Tau] = TAUS,
    same_model: bool = False,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Inspection:
    """`similarity`, and how many modules SafeMERGE would merge at each threshold; nothing is written.

    Args:
        taus: thresholds on rho, numbers, quantiles of this adapter's own rho such as "q0.5", or multiples of each module's
            null such as "n1.5".
        base, aligned, task_adapter, task_model, lm_head, same_model, device, progress: as in `similarity`.

    Raises:
        UserError: as `similarity`, and for a threshold that is neither.
    """
    wanted = [check_tau(tau) for tau in taus]
    models = open_checkpoint(base), open_checkpoint(aligned)
    task = _task(task_adapter, task_model, lm_head, models, same_model)
    rows = _similarity(*models, task, device, progress)
    counts = {tau: len(select(rows, Selection("below", tau=tau))) for tau in wanted}
    return Inspection(rows, counts, list(task.notes) if isinstance(task, Adapter) else [])


def repair(
    *,
    base: Model,
    aligned: Model,
    task_adapter: Lora | None = None,
    task_model: Model | None = None,
    safety_adapter: Lora | None = None,
    safety_model: Model | None = None,
    output: str | Path,
    tau: Tau = methods.TAU,
    alpha: float = methods.ALPHA,
    combine: str = "exact",
    point: Point | None = None,
    lm_head: bool = False,
    same_model: bool = False,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Repaired:
    """Repair a LoRA adapter, written as an ordinary PEFT folder, or a full fine-tune, written as a model in its layout.

    SafeMERGE: the modules with rho < tau become alpha dW_task + (1 - alpha) dW_safety, the others stay as they are
    (Djuhera et al. 2025). A model card and similarity.csv lie beside the weights.

    Args:
        base, aligned, task_adapter, task_model, lm_head, device, progress: as in `similarity`; same_model: of both
            adapters.
        safety_adapter: a LoRA trained on refusals from the same aligned model; methods that blend nothing need none.
        safety_model: in place of it a full fine-tune on refusals; beside a task_model only.
        output: the folder to write; it appears when complete.
        tau: threshold on rho, a number, a quantile of this adapter's own rho such as "q0.5", or a multiple of each module's
            null such as "n1.5".
        alpha: weight of the task adapter, in [0, 1]; the safety adapter gets 1 - alpha.
        combine: "exact" is the formula, at the sum of the ranks. "peft_linear" is what the official code does, PEFT's
            linear merge of A and B apart, which needs equal ranks; a full fine-tune has neither, and takes "exact" alone.
        point: any other method or setting in place of tau, alpha and combine, such as
            `safemerge.methods.resta(gamma=0.5)[0]`.
        dtype: of a written adapter's weights, the task adapter's by default.
        overwrite: replace the output if it exists.

    Raises:
        UserError: bad input, the output exists, or the disk has no room; nothing half-written is left.
    """
    chosen = point or methods.safemerge(tau=tau, alpha=alpha, combine=combine)[0]
    if chosen.needs_safety and safety_adapter is None and safety_model is None:
        raise UserError(f"{chosen.method} needs a safety adapter or model; safelora and scale do without")
    models = open_checkpoint(base), open_checkpoint(aligned)
    task = _task(task_adapter, task_model, lm_head, models, same_model)
    safety = _safety(safety_adapter, safety_model, models, same_model) if chosen.needs_safety else None
    if isinstance(task, FullModel):
        safety = renamed(safety, task.modules) if isinstance(safety, Adapter) else safety
        _check_full(task, safety, chosen, models, Path(output), dtype)
    elif isinstance(safety, Checkpoint):
        raise UserError(f"the safety model {safety.reference} goes with a task model; give a safety adapter")
    rows = _similarity(*models, task, device, progress)
    number = None if chosen.tau is None else resolve_tau(chosen.tau, rows)
    card: dict[str, object] = {"method": chosen.method, "tau": number, "tau setting": chosen.tau_setting}
    for name, model in zip(("base", "aligned"), models, strict=True):
        card[name] = model.reference
        card[f"{name} fingerprint"] = model.fingerprint()
    selected = select(rows, chosen.selection)
    if isinstance(task, FullModel):
        done = full_repair.repair_model(
            task=task,
            safety=safety,
            base=models[0],
            aligned=models[1],
            selected=selected,
            repair=chosen.repair,
            output=output,
            card=card,
            rows=rows,
            device=device,
            overwrite=overwrite,
        )
    else:
        done = repair_adapter(
            task=task,
            safety=safety if isinstance(safety, Adapter) else None,
            base=models[0],
            aligned=models[1],
            selected=selected,
            repair=chosen.repair,
            output=output,
            card=card,
            rows=rows,
            dtype=dtype,
            device=device,
            overwrite=overwrite,
        )
    return Repaired(
        output=Path(output),
        point=chosen,
        tau=number,
        rows=rows,
        selected=done.selected,
        modules=done.modules,
        rank=done.rank,
        svd_error=done.svd_error,
        shrink=done.shrink,
        rounding=done.rounding,
        notes=done.notes,
    )


def _task(
    adapter: Lora | None,
    model: Model | None,
    lm_head: bool,
    models: tuple[Checkpoint, Checkpoint],
    same_model: bool,
) -> Adapter | FullModel:
    if (adapter is None) == (model is None):
        raise UserError(f"give a task adapter or a task model, one of them; got {adapter} and {model}")
    if model is not None:
        return open_full(model, lm_head=lm_head)
    if lm_head:
        raise UserError("lm_head is for a task model; an adapter says itself which modules it adapts")
    assert adapter is not None
    return fitted(load_adapter(adapter), *models, same_model=same_model)


def _safety(
    adapter: Lora | None, model: Model | None, models: tuple[Checkpoint, Checkpoint], same_model: bool
) -> Adapter | Checkpoint:
    if adapter is not None and model is not None:
        raise UserError(f"give a safety adapter or a safety model, one of them; got {adapter} and {model}")
    if model is not None:
        return open_checkpoint(model)
    assert adapter is not None
    return fitted(load_adapter(adapter), *models, same_model=same_model)


def _similarity(
    base: Checkpoint, aligned: Checkpoint, task: Adapter | FullModel, device: str, progress: Progress | None
) -> list[ModuleRow]:
    if isinstance(task, FullModel):
        return similarity_of_model(base=base, aligned=aligned, task=task, device=device, progress=progress)
    return similarity_table(base=base, aligned=aligned, adapter=task, device=device, progress=progress)


def _check_full(
    task: FullModel,
    safety: Adapter | Checkpoint | None,
    point: Point,
    models: tuple[Checkpoint, Checkpoint],
    output: Path,
    dtype: torch.dtype | None,
) -> None:
    """What can be refused before rho is computed, which takes minutes."""
    if dtype is not None:
        raise UserError(
            f"a repaired model keeps the dtypes of {task.source}; leave out dtype={str(dtype)[6:]}"
        )
    full_repair.check_repair(point.repair, point.method)
    sources = [task.source, *(model.reference for model in models)]
    if safety is not None:
        sources.append(safety.reference if isinstance(safety, Checkpoint) else safety.source)
        check_safety(safety, task, *models)
    check_output(output, task, sources)
