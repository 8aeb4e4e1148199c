"""A repaired adapter, from two adapters, a selection and a repair."""

from __future__ import annotations

import os
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from safemerge import repairs
from safemerge.adapters import Adapter, load_adapter, write_adapter
from safemerge.card import Source, write_card
from safemerge.changes import Changes
from safemerge.checkpoints import Checkpoint
from safemerge.effective import middle
from safemerge.errors import UserError
from safemerge.files import companions
from safemerge.fit import fitted, renamed
from safemerge.measure import open_checkpoint
from safemerge.selection import Repair
from safemerge.table import ModuleRow, write_table


def repair_adapter(
    *,
    task: str | Path | Adapter,
    safety: str | Path | Adapter | None,
    selected: Sequence[str],
    repair: Repair,
    output: str | Path,
    base: str | Path | Checkpoint | None = None,
    aligned: str | Path | Checkpoint | None = None,
    dtype: torch.dtype | None = None,
    card: Mapping[str, object] | None = None,
    rows: Sequence[ModuleRow] | None = None,
    device: str = "cpu",
    overwrite: bool = False,
) -> Changes:
    """Write the task adapter, with the selected modules repaired, as an ordinary PEFT folder.

    Unselected modules keep dW_f. A module of the safety adapter that the task adapter lacks is left out: the
    paper repairs task modules. A selected module that the safety adapter lacks is kept as it is, and so is one
    that is to be projected although alignment did not change it (V = 0). All are listed in `notes`. The folder
    appears under its name only when complete.

    dtype: of the weights, the task adapter's by default. card: facts for the model card; rows: written
    beside it as similarity.csv. base and aligned: if given, both adapters must be theirs; `project` needs them.
    UserError for bad input, or if output exists and overwrite is not set.
    """
    ours = load_adapter(task)
    theirs = load_adapter(safety) if safety is not None and repair.kind in ("blend", "add") else None
    if base is not None and aligned is not None:
        models = open_checkpoint(base), open_checkpoint(aligned)
        ours = fitted(ours, *models)
        theirs = theirs and fitted(theirs, *models)
    else:
        models = None
    theirs = theirs and renamed(theirs, ours.modules)
    _check(ours, theirs, selected, repair, models)
    target = Path(output)
    found = Changes(len(ours.modules), notes=_notes(ours, theirs, selected))
    repairable = [name for name in ours.modules if theirs is None or name in theirs.modules]
    chosen = set(selected).intersection(repairable) if repair.kind != "keep" else set()
    ranks = {name: repairs.rank_of(repair, name, ours, theirs, chosen) for name in ours.modules}
    measured = repairs.Measured()
    repaired = repairs.repaired(ours, theirs, repair, chosen, models, device, measured)
    with complete_folder(target, overwrite) as folder:
        found.rank = max(ranks.values())
        write_adapter(folder, ours, repaired, found.rank, dtype or ours.dtype)
        found.selected = sorted(chosen.difference(measured.without_subspace))
        found.notes += [
            f"{name}: selected but not repaired, alignment did not change it, kept"
            for name in measured.without_subspace
        ]
        if measured.shrinks:
            found.shrink = statistics.median(measured.shrinks)
        if measured.merges:
            found.effective = middle(measured.merges)
        if measured.svd_errors:
            found.svd_error = max(measured.svd_errors)
            found.svd_error_mean = statistics.fmean(measured.svd_errors)
        if rows is not None:
            write_table(folder / "similarity.csv", rows)
        if ours.embeddings:  # of another vocabulary, which its tokenizer goes with
            for name, path in companions(ours.source, tokenizer=True).items():
                shutil.copyfile(path, folder / Path(name).name)
        sources = _source("task", ours), None if theirs is None else _source("safety", theirs)
        write_card(folder, *sources, repair, found, card or {}, rows)
    return found


def _check(
    ours: Adapter,
    theirs: Adapter | None,
    selected: Sequence[str],
    repair: Repair,
    models: tuple[Checkpoint, Checkpoint] | None,
) -> None:
    if repair.kind in ("blend", "add") and theirs is None:
        raise UserError(f"repair {repair.kind} needs a safety adapter; give one")
    if repair.kind == "project" and models is None:
        raise UserError("repair project needs the base and aligned models; give both")
    unknown = sorted(set(selected).difference(ours.modules))
    if unknown:
        raise UserError(
            f"module {unknown[0]} is selected but {ours.source} has none of that name; is the table its own?"
        )
    if theirs is None:
        return
    common = [name for name in ours.modules if name in theirs.modules]
    if not common:
        raise UserError(f"{ours.source} and {theirs.source} share no module; both must adapt the same model")
    for name in common:
        mine, other = ours.modules[name], theirs.modules[name]
        if mine.a.shape[1] != other.a.shape[1] or mine.b.shape[0] != other.b.shape[0]:
            raise UserError(
                f"{name} is {mine.b.shape[0]}x{mine.a.shape[1]} in {ours.source} and "
                f"{other.b.shape[0]}x{other.a.shape[1]} in {theirs.source}; both must adapt the same model"
            )


def _notes(ours: Adapter, theirs: Adapter | None, selected: Sequence[str]) -> list[str]:
    notes = list(dict.fromkeys((*ours.notes, *(theirs.notes if theirs else ()))))
    if theirs is None:
        return notes
    notes += [
        f"{name}: in the safety adapter only, left out" for name in theirs.modules if name not in ours.modules
    ]
    for name in ours.modules:
        if name not in theirs.modules:
            repaired = "selected but not repaired, " if name in set(selected) else ""
            notes.append(f"{name}: in the task adapter only, {repaired}kept")
    return notes


def _source(role: str, adapter: Adapter) -> Source:
    return Source(role, "LoRA adapter", adapter.source, adapter.digest, adapter.base)


@contextmanager
def complete_folder(target: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary sibling of target, which takes its name once the block succeeds and goes if it fails."""
    if target.exists() and not target.is_dir():
        raise UserError(f"output {target} is a file; give a folder that does not exist yet")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise UserError(f"output {target} exists; remove it, give another, or pass --overwrite")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if target.is_dir() and any(target.iterdir()):
            shutil.rmtree(target)
        temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
