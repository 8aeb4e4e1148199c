"""Is an adapter of this aligned model? By the name that it records, by weights, by vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from safemerge import hub
from safemerge.adapters import Adapter
from safemerge.checkpoints import Checkpoint
from safemerge.errors import UserError
from safemerge.files import fetch, is_folder, looks_like_hub_id, on_hub, read_json
from safemerge.names import names_of, same_id

_SIZES = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers")
# For the two readers: of the command, and of the experiment.
_SAME = "or, if that is a name of it, correct base_model_name_or_path in its adapter_config.json (safemerge: --same-model)"


def check_base(
    adapter: Adapter, base: Checkpoint | None, aligned: Checkpoint, *, same_model: bool = False
) -> list[str]:
    """Notes on what is known of the model that an adapter was trained on, none if it is the aligned one beyond doubt.

    Names are compared first: exactly, then without owner and quantisation, since mirrors and quantised copies differ in
    these alone, then as the hub knows them (renamed; a quantisation of). A folder's weights are compared instead, where
    they can be read. What leaves a doubt has its vocabulary compared, and is noted; shapes are checked in any case.

    same_model: the names are of one model, so only its vocabulary can speak against it.

    Raises:
        UserError: it was trained on the base, or on another model.
    """
    recorded = adapter.base
    if not recorded or same_id(recorded, aligned.reference):
        return []
    if same_model:
        reason = f"taken for {aligned.reference}, as you say"
    elif is_folder(recorded) and (same := _same_weights(adapter, Checkpoint(recorded), aligned)) is not None:
        if same:
            return []
        on_base = base is not None and same_id(recorded, base.reference)
        raise _other(adapter, recorded if not on_base else f"the base model {recorded}", aligned.reference)
    else:
        reason = check_name(adapter, base.reference if base else "", aligned.reference)
    return [f"{adapter.source} says it was trained on {recorded}: {reason}; {_vocabulary(adapter, aligned)}"]


def check_name(adapter: Adapter, base: str, aligned: str) -> str:
    """What the names of the models say, for a note. UserError if they say that it was trained on another one."""
    recorded, ours, bases = adapter.base, names_of(aligned), names_of(base)
    theirs = names_of(recorded)
    if ours & theirs:
        return f"by its name a copy of {aligned}"
    by_id = looks_like_hub_id(recorded) and not is_folder(recorded)
    if by_id and not bases & theirs:
        theirs = set().union(*map(names_of, hub.other_names(on_hub(recorded)[0])))
        if ours & theirs:
            return f"by what the hub says of it, the same as {aligned}"
    if bases & theirs:
        raise _other(adapter, f"the base model {recorded}", aligned, f", {_SAME}")
    if by_id and not is_folder(aligned):
        raise _other(adapter, recorded, aligned, f", {_SAME}")
    return f"whether that is {aligned} cannot be told by name"


def _other(adapter: Adapter, trained_on: str, aligned: str, remedy: str = "") -> UserError:
    return UserError(
        f"{adapter.source} was trained on {trained_on}, but the aligned model is {aligned}; give the model it was trained "
        f"on{remedy}"
    )


def _same_weights(adapter: Adapter, theirs: Checkpoint, aligned: Checkpoint) -> bool | None:
    """Whether the first and last adapted weights are the same in both models; None if theirs cannot be compared."""
    names = list(adapter.modules)
    for name in {names[0], names[-1]}:
        ours = aligned.weight(name)
        try:
            other = theirs.weight(name)
        except UserError:  # quantised, or not a model any more
            return None
        if ours.shape != other.shape or not alike(ours, other):
            return False
    return True


def alike(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors of one shape hold the same numbers, but for being stored in another precision."""
    if left.dtype == right.dtype:
        return bool(torch.equal(left, right))
    coarse = max(torch.finfo(left.dtype).eps, torch.finfo(right.dtype).eps)
    # float16 has nothing below 6e-8
    return bool(torch.allclose(left.float(), right.float(), rtol=coarse, atol=1e-7))


def _vocabulary(adapter: Adapter, aligned: Checkpoint) -> str:
    """What its vocabulary says, for the note. UserError if it is of another model.

    Compared are the tokenizer beside the adapter and the aligned model's, or else what the config of the recorded model
    says of its sizes.
    """
    theirs, ours = _tokens(adapter.source), _tokens(aligned.reference)
    if theirs and ours:
        other = [token for token, number in ours.items() if theirs.get(token) != number]
        if len(other) > len(ours) / 100:  # trainers rename a few special tokens
            raise UserError(
                f"{adapter.source} has the tokenizer of another model than {aligned.reference}: {len(other)} of "
                f"{len(ours)} tokens differ, such as {other[0]!r}; give the model it was trained on"
            )
        return "its shapes and its vocabulary were compared"
    config = _config(adapter.base)
    sizes = {
        key: (config[key], aligned.config[key]) for key in _SIZES if key in config and key in aligned.config
    }
    for key, (other, our) in sizes.items():
        if other != our:
            raise UserError(
                f"{adapter.source} was trained on {adapter.base}, whose {key} is {other}, and that of {aligned.reference} "
                f"is {our}; give the model it was trained on"
            )
    if "vocab_size" in sizes:
        return "its shapes and the size of its vocabulary were compared"
    return "only its shapes could be compared, not its vocabulary"


def _config(reference: str) -> Mapping[str, Any]:
    try:
        path = fetch(reference, "config.json", missing_ok=True)
        return read_json(path) if path else {}
    except UserError:  # gone, or not to be had here
        return {}


def _tokens(reference: str) -> Mapping[str, int]:
    """token -> id as tokenizer.json has them; empty if there is none, or it is of a kind without such a table."""
    try:
        path = fetch(reference, "tokenizer.json", missing_ok=True)
        found = read_json(path) if path else {}
    except UserError:
        return {}
    try:
        vocabulary = found["model"]["vocab"]
        table = (
            dict(vocabulary)
            if isinstance(vocabulary, dict)
            else {token: i for i, (token, _) in enumerate(vocabulary)}
        )
        return table | {token["content"]: token["id"] for token in found.get("added_tokens") or ()}
    except (KeyError, TypeError, ValueError):
        return {}
