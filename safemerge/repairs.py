"""A repair carried through all modules of an adapter, one module in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from safemerge import arithmetic, subspace
from safemerge.adapters import Adapter, Lora
from safemerge.arithmetic import Factors
from safemerge.changes import Effective
from safemerge.checkpoints import Checkpoint
from safemerge.effective import effective_weights
from safemerge.errors import UserError
from safemerge.measure import subspaces
from safemerge.selection import Repair


@dataclass(frozen=True)
class Measured:
    """What a repair found on its way, a value per module that it concerns.

    svd_errors: of truncations, relative. shrinks: ||projected dW|| / ||dW||. without_subspace: the modules that a
    projection left as they were, because V = 0. merges: what each blend that is not exact amounts to.
    """

    svd_errors: list[float] = field(default_factory=list)
    shrinks: list[float] = field(default_factory=list)
    without_subspace: list[str] = field(default_factory=list)
    merges: list[Effective] = field(default_factory=list)


def rank_of(repair: Repair, name: str, ours: Adapter, theirs: Adapter | None, chosen: set[str]) -> int:
    """The rank that a module will have: known before any of them is computed, for the padding to one rank."""
    rank = ours.modules[name].rank
    if name not in chosen:
        return rank
    if theirs is not None and repair.kind == "add" and repair.gamma:
        rank += theirs.modules[name].rank
    elif theirs is not None and repair.kind == "blend" and repair.combine == "exact":
        other = theirs.modules[name].rank
        rank = {(1.0, 0.0): rank, (0.0, 1.0): other}.get(repair.weights, rank + other)
    return rank if repair.rank is None else min(rank, repair.rank)


def repaired(
    ours: Adapter,
    theirs: Adapter | None,
    repair: Repair,
    chosen: set[str],
    models: tuple[Checkpoint, Checkpoint] | None,
    device: str,
    measured: Measured,
) -> Iterator[tuple[str, Factors]]:
    """(module, factors) of every module, in execution order; dW = b @ a. What is found goes into `measured`.

    Seeded repairs draw for every common module, chosen or not, in PEFT's order: a module's mask then depends
    on the seed alone, not on tau, and with all modules chosen the result is PEFT's own, bit for bit.
    """
    generator = torch.Generator().manual_seed(repair.seed)
    draws = repair.density is not None and (repair.kind == "add" or repair.combine.startswith("dare"))
    names = [name for name in ours.modules if name in chosen]
    walk = subspaces(ours, *models, names, device) if models else iter(())
    for name, module in ours.modules.items():
        kept = scaled(module)
        result = kept
        if repair.kind == "project" and name in chosen:
            _, v, norm_v = next(walk)
            if norm_v:
                result = _projected(repair, kept, v, norm_v)
                measured.shrinks.extend(_shrink(kept, result))
            else:
                measured.without_subspace.append(name)
        elif theirs is not None and name in theirs.modules and (name in chosen or draws):
            result = _with_safety(repair, module, theirs.modules[name], kept, generator)
            if name in chosen and repair.kind == "blend" and repair.combine != "exact":
                measured.merges.append(effective_weights(result, kept, scaled(theirs.modules[name])))
        elif theirs is None and name in chosen:
            result = _alone(repair, kept)
        if name not in chosen:
            result = kept
        elif repair.rank is not None:
            result, error = arithmetic.truncate((result[0].float(), result[1].float()), repair.rank)
            measured.svd_errors.append(error)
        yield name, result


def scaled(module: Lora) -> Factors:
    """(a, b) with the LoRA scaling in b; a, and b where the scaling is 1, stay as stored."""
    return module.a, module.b if module.scaling == 1 else module.b.float() * module.scaling


def _projected(repair: Repair, task: Factors, v: Tensor, norm_v: float) -> Factors:
    a, b = task[0], task[1].to(v.device).float()
    if repair.projector == "orthogonal":
        return a, subspace.project_orthogonal(b, v, 1.0 if repair.energy is None else repair.energy).cpu()
    return a, subspace.project(b, v, norm_v).cpu()


def _shrink(before: Factors, after: Factors) -> list[float]:
    """What a repair multiplied the length of the update by; nothing of an update that was zero."""
    old, new = (float(subspace.fold(*factors).norm()) for factors in (before, after))
    return [new / old] if old else []


def _alone(repair: Repair, factors: Factors) -> Factors:
    if repair.kind == "drop":
        return arithmetic.scale(factors, 0.0)
    if repair.kind == "scale" and repair.alpha is not None:
        return arithmetic.scale((factors[0], factors[1].float()), repair.alpha)
    raise UserError(
        f"repair {repair.kind} with alpha={repair.alpha} cannot be applied; see safemerge.methods"
    )


def _with_safety(
    repair: Repair, ours: Lora, theirs: Lora, task: Factors, generator: torch.Generator
) -> Factors:
    safety = scaled(theirs)
    if repair.kind == "add":
        if repair.density is not None:
            task = arithmetic.dare((task[0].float(), task[1].float()), repair.density, generator)
        return arithmetic.add(task, (safety[0].float(), safety[1].float()), repair.gamma or 0.0)
    alpha, other = repair.weights
    if repair.combine == "exact":
        return arithmetic.blend((task[0], task[1].float()), (safety[0], safety[1].float()), alpha, other)
    plain = (ours.a.float(), ours.b.float()), (theirs.a.float(), theirs.b.float())
    scalings = ours.scaling, theirs.scaling
    return arithmetic.peft_blend(repair.combine, *plain, scalings, alpha, repair.density, generator)
