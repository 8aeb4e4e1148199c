"""An adapter brought to the aligned model that it is for: is it of it, and are its modules called as that model's are?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor

from safemerge.adapters import Adapter
from safemerge.checkpoints import Checkpoint
from safemerge.errors import UserError
from safemerge.identity import alike, check_base
from safemerge.names import inner, module_name


def fitted(
    adapter: Adapter, base: Checkpoint | None, aligned: Checkpoint, *, same_model: bool = False
) -> Adapter:
    """The adapter with the names of the aligned model's modules, and notes on what that took.

    base: if given, an adapter of it is told apart from one of another model. same_model: as in `identity.check_base`.

    Raises:
        UserError: it was trained on another model, a module has no weight there or another shape, or it carries embeddings
            that were trained.
    """
    if adapter.fitted_to == aligned.reference:
        return adapter
    notes = check_base(adapter, base, aligned, same_model=same_model)
    for name, module in adapter.modules.items():
        check_shape(name, (module.b.shape[0], module.a.shape[1]), aligned.weight(name))
    embeddings, more = _embeddings(adapter, aligned)
    modules = {_name_in(aligned, name): module for name, module in adapter.modules.items()}
    if len(modules) < len(adapter.modules):
        raise UserError(
            f"{adapter.source} has two LoRAs for one module of {aligned.reference}; save it again"
        )
    return replace(
        adapter,
        modules=modules,
        embeddings=embeddings,
        fitted_to=aligned.reference,
        notes=(*adapter.notes, *notes, *more),
    )


def check_shape(name: str, expected: tuple[int, int], weight: Tensor) -> None:
    """UserError unless a weight is d_out x d_in as the adapter has it."""
    if tuple(weight.shape) != expected:
        raise UserError(
            f"{name} is {tuple(weight.shape)} in the model but the adapter is for {expected}; "
            "give the model that the adapter was trained on"
        )


def renamed(adapter: Adapter, like: Iterable[str]) -> Adapter:
    """The adapter with its modules called as those names are, where only what comes before `layers` differs."""
    names = {inner(name): name for name in like}
    return replace(adapter, modules={names.get(inner(n), n): module for n, module in adapter.modules.items()})


def _name_in(model: Checkpoint, name: str) -> str:
    """A module's name as that model, loaded by transformers, has it.

    Either spelling of a multimodal model's modules is kept: PEFT and vLLM translate both, but not a text model's.
    """
    tensor = model.find(name).removesuffix(".weight")
    if inner(tensor) != inner(name):  # a head that is tied to the embedding
        return inner(name) if not model.multimodal else name
    if not model.multimodal:
        return module_name(tensor)
    return name if "language_model." in name else _multimodal(tensor)


def _multimodal(tensor: str) -> str:
    """The module of a multimodal checkpoint's tensor: the order of the two words changed with transformers 4.52."""
    return tensor.replace("language_model.model.", "model.language_model.", 1)


def _embeddings(adapter: Adapter, aligned: Checkpoint) -> tuple[Mapping[str, Tensor], list[str]]:
    """The whole weights that the result has to carry too, and notes: those of another vocabulary than the model's.

    Raises:
        UserError: their common rows are not the model's own.
    """
    kept, notes = {}, []
    for name, theirs in adapter.embeddings.items():
        ours = aligned.weight(name)
        rows = min(len(ours), len(theirs))
        if ours.shape[1] != theirs.shape[1] or not alike(ours[:rows], theirs[:rows]):
            raise UserError(
                f"{adapter.source} carries a whole {inner(name)}, and its rows are not those of {aligned.reference}: it "
                "was trained too, which no repair of LoRA modules covers; train plain LoRA"
            )
        if len(ours) == len(theirs):
            notes.append(f"{adapter.source} carries {inner(name)} as it is in the model: left out")
        else:
            kept[name] = theirs
            notes.append(
                f"{adapter.source} carries {inner(name)} with {len(theirs)} rows, where {aligned.reference} has "
                f"{len(ours)}: kept; resize the model's embeddings before loading the result"
            )
    return kept, notes
