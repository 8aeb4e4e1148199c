"""Names as trainers and libraries spell them: of LoRA tensors, of modules, and of models. Imports no torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from safemerge.files import is_folder, looks_like_hub_id, split_reference

PREFIX = "base_model.model."  # PEFT's
HEAD, EMBEDDING = "lm_head", "embed_tokens"
_LORA = re.compile(r"^(?P<module>.+)\.lora_(?P<side>[AB])(?:\.(?P<adapter>[^.]+))?\.weight$")
_EMBEDDING = re.compile(rf"^(?P<module>(?:.+\.)?(?:{EMBEDDING}|{HEAD}))(?:\.base_layer)?\.weight$")
# What wrappers put before or between: torch.compile, DistributedDataParallel, PEFT (more than once, if wrapped again).
_WRAPPERS = re.compile(rf"^(?:module\.|{re.escape(PREFIX)})+")
# The parts that differ between a bare decoder, a causal language model and a multimodal one, old spelling and new.
_OUTER = re.compile(r"^(?:(?:model|language_model)\.)+(?=.)")
_QUANTISED = re.compile(
    r"[-.](?:unsloth|dynamic|bnb|bitsandbytes|nf4|[2-8]-?bit|int[48]|w[48]a(?:8|16)|fp8|awq|gptq|hqq|gguf|mlx|quantized|\d+g)$"
)
_FORMAT = re.compile(r"[-.](?:hf|bf16|fp16|fp32)$")


class LoraKey(NamedTuple):
    """What a tensor of an adapter is: side A or B of a module, of the adapter of that name if the key has one."""

    module: str
    side: str
    adapter: str


def lora_key(key: str) -> LoraKey | None:
    """A LoRA tensor's name taken apart, in PEFT's spelling or a wrapper's; None if it is none."""
    match = _LORA.match(_unwrapped(key))
    return match and LoraKey(module_name(match["module"]), match["side"], match["adapter"] or "")


def embedding_key(key: str) -> str | None:
    """The module whose whole weight that tensor of an adapter is: an embedding or an output head; None if it is neither."""
    match = _EMBEDDING.match(_unwrapped(key))
    return match and module_name(match["module"])


def _unwrapped(key: str) -> str:
    return _WRAPPERS.sub("", key.replace("_orig_mod.", ""))


def inner(module: str) -> str:
    """A module's name without what depends on the class of its model: layers.3.mlp.up_proj, lm_head."""
    return _OUTER.sub("", module)


def module_name(name: str) -> str:
    """A module's name as a causal language model has it: a bare decoder's lacks `model.`. Multimodal ones stay."""
    found = inner(name)
    plain = "language_model." not in name and found.startswith(("layers.", f"{EMBEDDING}"))
    return f"model.{found}" if plain else name


def names_of(model: str) -> set[str]:
    """What a model may be known by, whoever's copy it is and however quantised: its hub name or its folder's, in plain.

    unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit and meta-llama/Llama-3.1-8B-Instruct are both llama-3.1-8b-instruct.
    """
    cached = re.search(r"models--(?:[^/]+--)?([^/]+)/snapshots/", f"{model}/")
    name = cached[1] if cached else _hub_name(model) or Path(model.rstrip("/\\").replace("\\", "/")).name
    return {without_quantisation(name)} - {""}  # of "", nothing


def same_id(left: str, right: str) -> bool:
    """Whether two references are one folder, or one hub id at whatever revision."""

    def plain(reference: str) -> str:
        if is_folder(reference):
            return str(Path(reference).expanduser().resolve())
        return split_reference(reference)[0].rstrip("/").lower()

    return plain(left) == plain(right)


def without_quantisation(name: str) -> str:
    """A model's name in lower case, without what says how it was quantised or stored, and without Llama's old `Meta-`."""
    name, before = name.lower().replace("_", "-"), ""
    while name != before:
        before, name = name, _FORMAT.sub("", _QUANTISED.sub("", name))
    return name.removeprefix("meta-")


def _hub_name(model: str) -> str:
    return (
        split_reference(model)[0].partition("/")[2]
        if looks_like_hub_id(model) and not is_folder(model)
        else ""
    )
