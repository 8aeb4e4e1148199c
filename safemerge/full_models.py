"""A full-parameter fine-tune as input: which of its tensors are linear weights, whether it fits the pair, its table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from safemerge import full_update, subspace
from safemerge.adapters import Adapter
from safemerge.checkpoints import Checkpoint
from safemerge.errors import UserError
from safemerge.fit import fitted
from safemerge.measure import Progress, check_device, open_checkpoint
from safemerge.table import ModuleRow, kind_of, layer_of, module_order

HEAD = "lm_head"
_TRANSPOSED = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")  # transformers' Conv1D: d_in x d_out
_TABLES = ("embed", "relative_attention_bias")  # matrices inside blocks that are looked up, not multiplied


@dataclass(frozen=True)
class FullModel:
    """A fine-tuned model whose linear weights are measured and repaired.

    lm_head: whether the output head is one of them; without, those inside the numbered blocks are.
    """

    model: Checkpoint
    lm_head: bool = False

    @property
    def source(self) -> str:
        return self.model.reference

    @cached_property
    def modules(self) -> Mapping[str, str]:
        """Module name -> tensor name of each linear weight, in execution order.

        These are the matrices named `.weight` inside numbered blocks (model.layers.3.mlp.up_proj.weight), and the head
        where asked for. Not so embeddings and other tables, norms, biases, convolutions, and experts stored as one
        three-dimensional tensor.

        UserError if there are none, if the model stores them transposed, or if the head is asked for and is tied.
        """
        kind = str(self.model.config.get("model_type", ""))
        if kind in _TRANSPOSED:
            raise UserError(
                f"{self.source} is a {kind}, which stores its weights transposed (Conv1D): not supported"
            )
        found = [name.removesuffix(".weight") for name in self.model.shards if self._linear(name)]
        if self.lm_head:
            tied = self.model.config.get("tie_word_embeddings")
            if tied or f"{HEAD}.weight" not in self.model.shards:
                raise UserError(
                    f"{self.source} has no {HEAD} of its own (tied to the embeddings): leave out --lm-head"
                )
            found.append(HEAD)
        if not found:
            raise UserError(
                f"{self.source} has no linear weights in numbered blocks; is it a language model?"
            )
        return {name: f"{name}.weight" for name in sorted(found, key=module_order)}

    @cached_property
    def others(self) -> list[str]:
        """The names of all other tensors, which are kept as they are."""
        linear = set(self.modules.values())
        return sorted(set(self.model.shards) - linear)

    def _linear(self, name: str) -> bool:
        module = name.removesuffix(".weight")
        if module == name or layer_of(module) is None or any(word in module for word in _TABLES):
            return False
        return bool(self.model.read(name).dim() == 2)


def open_full(model: str | Path | Checkpoint, *, lm_head: bool = False) -> FullModel:
    """A full-parameter fine-tune from a folder or hub id. UserError unless it is in safetensors."""
    found = FullModel(open_checkpoint(model), lm_head)
    for name in set(found.model.shards.values()):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise UserError(
                f"{found.source} holds its weights in {name}; save it anew as safetensors, in one folder"
            )
    return found


def similarity_of_model(
    *,
    base: Checkpoint,
    aligned: Checkpoint,
    task: FullModel,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[ModuleRow]:
    """rho and norms of each linear weight that fine-tuning changed, in execution order; dW = W_task - W_aligned.

    A weight that is the aligned model's own has no update to repair and no row, as a module without a LoRA has none.
    Reads three weights at a time and holds at most four matrices of the module's size in float32, mapped files included.
    UserError as `similarity_table`, and if fine-tuning changed no linear weight.
    """
    check_device(device)
    check_origin(task.model, "task", base, aligned, list(task.modules))
    rows = []
    for done, name in enumerate(task.modules, start=1):
        row = _row(name, task.model, base, aligned, device)
        if row is not None:
            rows.append(row)
        if progress:
            progress(done, len(task.modules), name)
    return rows


def _row(name: str, task: Checkpoint, base: Checkpoint, aligned: Checkpoint, device: str) -> ModuleRow | None:
    update, norm_task = moved(name, task, aligned, device)
    if norm_task == 0:
        return None
    v, norm_v = moved(name, aligned, base, device)
    found = full_update.similarity(update, norm_task, v, norm_v)
    return ModuleRow(
        module=name,
        layer=layer_of(name),
        kind=kind_of(name),
        rho=found.rho,
        norm_task=found.norm_task,
        norm_v=found.norm_v,
        norm_projected=found.norm_projected,
        flags=found.flags,
        null=found.null,
    )


def moved(name: str, model: Checkpoint, start: Checkpoint, device: str = "cpu") -> tuple[Tensor, float]:
    """W_model - W_start of a module (d_out x d_in, float32), and its Frobenius norm.

    UserError unless the two fit each other and are finite.
    """
    left, right = pair(name, model, start)
    out = torch.empty(left.shape, device=device)
    norm = subspace.difference(left, right, out)
    if not math.isfinite(norm):
        raise UserError(f"{name} of {model.reference} or {start.reference} has NaN or infinite weights")
    return out, norm


def pair(name: str, model: Checkpoint, start: Checkpoint) -> tuple[Tensor, Tensor]:
    """The weights of one module in two models, memory-mapped. UserError unless of one shape."""
    left, right = model.weight(name), start.weight(name)
    if left.shape != right.shape:
        raise UserError(
            f"{name} is {tuple(left.shape)} in {model.reference} and {tuple(right.shape)} in {start.reference}; "
            "they must be the same architecture"
        )
    return left, right


def check_origin(
    model: Checkpoint, role: str, base: Checkpoint, aligned: Checkpoint, modules: list[str]
) -> None:
    """UserError unless the model is a fine-tune of the aligned one, as far as one of its weights tells.

    The first weight that tells the three models apart is looked at. Fine-tuning moves a weight by a small part of its
    length; two unrelated models differ by more than that length. A model that lies more than twice as near to the base as
    to the aligned model was fine-tuned from the base.
    """
    changed = False
    for name in modules:
        update, distance = moved(name, model, aligned)
        if distance == 0:
            continue
        changed = True
        v, norm_v = moved(name, aligned, base)
        if norm_v == 0:
            continue
        length = math.sqrt(full_update.dot64(aligned.weight(name), aligned.weight(name)))
        if distance > length:
            raise UserError(
                f"the {role} model {model.reference} is no fine-tune of {aligned.reference}: {name} differs by "
                f"{distance:.3g} at a length of {length:.3g}; give the model that it was trained from as --aligned"
            )
        update += v
        from_base = math.sqrt(full_update.dot64(update, update))
        if from_base < distance / 2:
            raise UserError(
                f"the {role} model {model.reference} was fine-tuned from {base.reference}, not from {aligned.reference}: "
                f"{name} differs by {from_base:.3g} and {distance:.3g}; fine-tune the aligned model"
            )
        return
    if not changed:
        raise UserError(
            f"the {role} model {model.reference} has the linear weights of {aligned.reference}; give the fine-tuned model"
        )


def check_safety(
    safety: Checkpoint | Adapter, task: FullModel, base: Checkpoint, aligned: Checkpoint
) -> None:
    """UserError unless the safety model, or LoRA, belongs to the same aligned model as the task model."""
    if isinstance(safety, Checkpoint):
        check_origin(safety, "safety", base, aligned, list(task.modules))
        return
    fitted(safety, base, aligned)
    common = [name for name in safety.modules if name in task.modules]
    if not common:
        raise UserError(
            f"{task.source} and {safety.source} share no module; both must come from the same model"
        )
    for name in common:
        module, shape = safety.modules[name], tuple(task.model.weight(name).shape)
        if (module.b.shape[0], module.a.shape[1]) != shape:
            raise UserError(
                f"{name} is {shape} in {task.source} and {module.b.shape[0]}x{module.a.shape[1]} in {safety.source}; "
                "both must come from the same model"
            )
