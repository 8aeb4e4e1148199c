"""A repaired model, from a full-parameter fine-tune, a selection and a repair: a block of rows of one weight at a time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from safemerge import arithmetic, full_update
from safemerge.adapters import Adapter
from safemerge.apply import complete_folder
from safemerge.card import Source, write_card
from safemerge.changes import Changes
from safemerge.checkpoints import Checkpoint
from safemerge.errors import UserError, first_line
from safemerge.files import split_reference
from safemerge.full_models import FullModel, moved, pair
from safemerge.full_output import copy_files, untouched, write_over
from safemerge.selection import Repair
from safemerge.table import ModuleRow, write_table

Rows = Callable[[slice], Tensor]  # some rows of a dW, in float32

_BLOCK = 1 << 22  # elements at a time, 16 MiB in float32


def check_repair(repair: Repair, method: str) -> None:
    """UserError for what needs LoRA factors: merges of A and B apart, and truncation to a rank."""
    if repair.kind == "blend" and repair.combine != "exact":
        raise UserError(
            f"combine={repair.combine} merges the factors A and B, which a full model has not; use combine=exact"
        )
    if repair.rank is not None:
        raise UserError(
            f"rank={repair.rank} truncates a LoRA; a repaired full model keeps full weights, leave it out"
        )
    if repair.kind not in ("blend", "add", "scale", "project"):
        raise UserError(f"{method} repairs nothing; copy the model instead")


def repair_model(
    *,
    task: FullModel,
    safety: Checkpoint | Adapter | None,
    base: Checkpoint,
    aligned: Checkpoint,
    selected: Sequence[str],
    repair: Repair,
    output: str | Path,
    card: Mapping[str, object],
    rows: Sequence[ModuleRow],
    device: str = "cpu",
    overwrite: bool = False,
) -> Changes:
    """Write the task model with dW of the selected modules repaired: same shards, dtypes, index, config and tokenizer.

    W = W_aligned + repaired dW in float32, rounded once to the task model's dtype; every other tensor is the task
    model's, byte for byte. The folder appears under its name only when complete.

    safety: a full fine-tune, or a LoRA, whose modules alone are then blended. DARE draws per entry of dW_f, as its paper
    does, from a seed and the module's name: a mask depends on neither selection nor shards.

    UserError for bad input, or if the disk fills up; nothing half-written is left.
    """
    covered = [name for name in selected if not isinstance(safety, Adapter) or name in safety.modules]
    chosen = {task.modules[name]: name for name in covered}
    work = _Work(task.model, safety, base, aligned, repair, device)
    found = Changes(len(rows))
    with complete_folder(Path(output), overwrite) as folder:
        try:
            copy_files(task.model, folder)
            write_over(folder, task.model, {name: work.repaired(module) for name, module in chosen.items()})
        except OSError as error:
            raise UserError(
                f"cannot write {output}: {first_line(error)}; free some space, or give another"
            ) from None
        found.selected = sorted(set(covered).difference(work.without_subspace))
        found.shrink = statistics.median(work.shrinks) if work.shrinks else None
        found.rounding = (statistics.median(work.roundings) or None) if work.roundings else None
        kept, changed = untouched(task, aligned)
        found.notes = _notes(task, safety, selected, rows, work.without_subspace, changed)
        write_table(folder / "similarity.csv", rows)
        write_card(
            folder, _source("task", task.model), _safety_source(safety), repair, found, card, rows, kept
        )
    return found


@dataclass
class _Work:
    """A repair of one module after the other, and what was found on the way (a value per module)."""

    task: Checkpoint
    safety: Checkpoint | Adapter | None
    base: Checkpoint
    aligned: Checkpoint
    repair: Repair
    device: str

    def __post_init__(self) -> None:
        self.shrinks: list[float] = []
        self.roundings: list[float] = []
        self.without_subspace: list[str] = []

    def repaired(self, module: str) -> Iterator[Tensor]:
        """The new weight, in the task model's dtype, a block of rows at a time; nothing if it stays as it is."""
        delta = self._delta(module)
        if delta is None:
            return
        old, start = pair(module, self.task, self.aligned)
        length = rounded_off = 0.0
        for rows in _blocks(*old.shape):
            update = delta(rows)
            exact = start[rows].float() + update
            block = exact.to(old.dtype)
            if not bool(block.isfinite().all()):
                raise UserError(
                    f"{module} is not finite once repaired: the safety model has NaN or infinite weights there, or "
                    f"{str(old.dtype)[6:]} overflows"
                )
            length += full_update.dot64(update, update)
            lost = block.float() - exact
            rounded_off += full_update.dot64(lost, lost)
            yield block
        if length:
            self.roundings.append(math.sqrt(rounded_off / length))

    def _delta(self, module: str) -> Rows | None:
        """The repaired dW of a module, by rows; None if it stays as it is."""
        if self.repair.kind == "project":
            return self._projected(module)
        task = _difference(module, self.task, self.aligned)
        if self.repair.density is not None:
            task = _thinned(task, self.repair, module)
        if self.repair.kind == "scale":
            return _sum(task, self.repair.alpha or 0.0)
        safety = self._safety(module)
        if self.repair.kind == "add":
            return _sum(task, 1.0, safety, self.repair.gamma or 0.0)
        alpha, other = self.repair.weights
        return _sum(task, alpha, safety, other)

    def _safety(self, module: str) -> Rows:
        if isinstance(self.safety, Checkpoint):
            return _difference(module, self.safety, self.aligned)
        assert self.safety is not None  # checked with the method
        lora = self.safety.modules[module]
        a, b = lora.a.float(), lora.b.float() * lora.scaling
        return lambda rows: b[rows] @ a

    def _projected(self, module: str) -> Rows | None:
        update, norm = moved(module, self.task, self.aligned, self.device)
        v, norm_v = moved(module, self.aligned, self.base, self.device)
        if norm_v == 0:
            self.without_subspace.append(module)
            return None
        if self.repair.projector == "orthogonal":
            energy = 1.0 if self.repair.energy is None else self.repair.energy
            result = full_update.project_orthogonal(update, v, energy)
        else:
            result = full_update.project(update, norm, v, norm_v)
        self.shrinks.append(math.sqrt(full_update.dot64(result, result)) / norm)
        found = result.cpu()
        return lambda rows: found[rows]


def _difference(module: str, model: Checkpoint, start: Checkpoint) -> Rows:
    left, right = pair(module, model, start)
    return lambda rows: left[rows].float() - right[rows].float()


def _thinned(task: Rows, repair: Repair, module: str) -> Rows:
    """DARE on dW_f. Rows must be asked for in their order, once."""
    assert repair.density is not None
    density = repair.density
    seed = int.from_bytes(sha256(f"{repair.seed} {module}".encode()).digest()[:8], "little", signed=True)
    generator = torch.Generator().manual_seed(seed)
    return lambda rows: arithmetic.drop(task(rows), density, generator)


def _sum(task: Rows, of_task: float, safety: Rows | None = None, of_safety: float = 0.0) -> Rows:
    if safety is None:
        return lambda rows: task(rows).mul_(of_task)
    return lambda rows: task(rows).mul_(of_task).add_(safety(rows), alpha=of_safety)


def _blocks(d_out: int, d_in: int) -> list[slice]:
    step = max(1, _BLOCK // max(1, d_in))
    return [slice(start, min(start + step, d_out)) for start in range(0, d_out, step)]


def _notes(
    task: FullModel,
    safety: Checkpoint | Adapter | None,
    selected: Sequence[str],
    rows: Sequence[ModuleRow],
    without_subspace: Sequence[str],
    changed: Sequence[str],
) -> list[str]:
    notes = list(safety.notes) if isinstance(safety, Adapter) else []
    if changed:
        notes.append(
            f"fine-tuning also changed what is not measured ({', '.join(changed)}): kept as fine-tuned"
        )
    unchanged = len(task.modules) - len(rows)
    if unchanged:
        notes.append(
            f"{unchanged} linear weights are the aligned model's own: nothing to measure or to repair"
        )
    if isinstance(safety, Adapter):
        missing = [name for name in selected if name not in safety.modules]
        notes += [f"{name}: selected but not in the safety adapter, kept" for name in missing]
    notes += [
        f"{name}: selected but not repaired, alignment did not change it, kept" for name in without_subspace
    ]
    return notes


def _source(role: str, model: Checkpoint) -> Source:
    name = "" if Path(model.reference).exists() else split_reference(model.reference)[0]
    return Source(role, "model", model.reference, model.fingerprint(), name)


def _safety_source(safety: Checkpoint | Adapter | None) -> Source | None:
    if isinstance(safety, Checkpoint):
        return _source("safety", safety)
    return None if safety is None else Source("safety", "LoRA adapter", safety.source, safety.digest)
