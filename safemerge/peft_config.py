"""adapter_config.json, checked: what a LoRA is, and what other kinds of adapters are called. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safemerge import patterns
from safemerge.errors import UserError
from safemerge.files import read_json
from safemerge.screening import visible

CONFIG = "adapter_config.json"
# PEFT's defaults, for configs that leave them out.
RANK, ALPHA = 8, 8
# What a LoRA config may switch on that makes dW something else than s B A on top of the untouched base.
_REFUSED = {
    "use_dora": "DoRA rescales the base weight",
    "lora_bias": "it trains LoRA biases",
    "modules_to_save": "it carries whole trained modules",
    "trainable_token_indices": "it trains token embeddings",
    "target_parameters": "it adapts bare parameters",
    "fan_in_fan_out": "its weights are transposed (Conv1D)",
    "use_qalora": "QALoRA pools its input",
    "layer_replication": "it repeats layers",
    "alora_invocation_tokens": "aLoRA acts on part of the tokens only",
    "use_bdlora": "its factors are block-diagonal",
    "arrow_config": "it routes between adapters",
    "kasa_config": "it changes the base weight",
    "megatron_config": "its layers are split for Megatron",
}
_BASE_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")
# PEFT's other kinds, by what they do to a model.
_KINDS = {
    "ADALORA": "AdaLoRA: dW = B diag(E) A",
    "LOHA": "LoHa: Hadamard products of low-rank factors",
    "LOKR": "LoKr: Kronecker products",
    "IA3": "IA3: it rescales activations",
    "PREFIX_TUNING": "prefix tuning: it adds keys and values, not weights",
    "PROMPT_TUNING": "prompt tuning: it adds virtual tokens, not weights",
    "MULTITASK_PROMPT_TUNING": "prompt tuning: it adds virtual tokens, not weights",
    "P_TUNING": "p-tuning: it adds virtual tokens, not weights",
    "ADAPTION_PROMPT": "LLaMA-Adapter: it adds prompts, not weights",
    "VERA": "VeRA: scaled random projections",
    "OFT": "OFT: it rotates the base weight",
    "BOFT": "BOFT: it rotates the base weight",
    "HRA": "HRA: it reflects the base weight",
    "LN_TUNING": "it trains the norms",
    "XLORA": "X-LoRA: it mixes several LoRAs",
    "POLY": "Poly: it mixes several LoRAs",
    "TRAINABLE_TOKENS": "it trains token embeddings",
}
# Of tensors that no plain LoRA has, by a part of their name.
_TENSORS = {
    "magnitude_vector": "DoRA",
    "lora_embedding": "an embedding LoRA",
    "lokr_": "LoKr, as LyCORIS saves it",
    "hada_": "LoHa, as LyCORIS saves it",
    "ia3_l": "IA3",
    "lora_E": "AdaLoRA",
    "vera_": "VeRA",
    "oft_": "OFT",
    "prompt_embeddings": "prompt or prefix tuning",
    "lora_down": "kohya's format, of image models",
    "lora_up": "kohya's format, of image models",
    ".lora_a": "MLX",
    ".lora_b": "MLX",
    "modules_to_save": "modules_to_save",
    "bias": "a bias",
}


def diagnosis(key: str) -> str:
    """What a tensor's name says of the kind of adapter, in brackets; empty if nothing."""
    return next((f" ({kind})" for part, kind in _TENSORS.items() if part in key), "")


def check_config(source: str, config: Mapping[str, Any]) -> None:
    """UserError, naming the setting and its value, unless that is the config of a plain LoRA."""
    kind = config.get("peft_type")
    if kind != "LORA":
        raise UserError(_not_lora(source, kind, config))
    for option, why in _REFUSED.items():
        if config.get(option):
            raise UserError(
                f"{source} has {option}={_shown(config[option])}: {why}; that cannot be merged, train plain LoRA"
            )
    bias, start, base = (config.get(k) for k in ("bias", "init_lora_weights", "base_model_name_or_path"))
    if config.get("bias", "none") != "none":
        raise UserError(f"{source} has bias={_shown(bias)}: it trains base biases; train with bias='none'")
    if not isinstance(start, str | bool | None):
        raise _wrong(source, "init_lora_weights", start, "a name, true or false")
    if isinstance(start, str) and start.lower().startswith(_BASE_CHANGING):
        raise UserError(
            f"{source} has init_lora_weights={start}, which changes the base weights; save it converted to "
            "plain LoRA (path_initial_model_for_weight_conversion)"
        )
    if not isinstance(base, str | None) or (base and not (base.isprintable() and len(base) < 4096)):
        raise _wrong(source, "base_model_name_or_path", base, "a model's name")
    if not isinstance(config.get("use_rslora"), bool | None):
        raise _wrong(source, "use_rslora", config["use_rslora"], "true or false")
    _check_rank(source, "r", config.get("r", RANK))
    _check_alpha(source, "lora_alpha", config.get("lora_alpha", ALPHA))
    for name, check in (("rank_pattern", _check_rank), ("alpha_pattern", _check_alpha)):
        for pattern, value in _patterns(source, name, config.get(name)).items():
            check(source, f"{name} {pattern}", value)


def check_folder(source: str, folder: Path) -> None:
    """`check_config` of a PEFT folder."""
    check_config(source, read_json(folder / CONFIG))


def rank_and_scaling(config: Mapping[str, Any], module: str) -> tuple[int, float]:
    """r of a module and its scaling, lora_alpha / r or (rsLoRA) / sqrt(r), by PEFT's rules; `config` has been checked."""
    rank = int(_matching(config.get("rank_pattern"), module, config.get("r", RANK)))
    alpha = float(_matching(config.get("alpha_pattern"), module, config.get("lora_alpha", ALPHA)))
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def largest_rank(folder: Path) -> int:
    """The largest rank that any module of a PEFT folder may have; its config has been checked."""
    config = read_json(folder / CONFIG)
    return max([int(config.get("r", RANK)), *map(int, (config.get("rank_pattern") or {}).values())])


def _matching(table: Mapping[str, Any] | None, name: str, default: Any) -> Any:
    """PEFT's rule: the first pattern that matches the whole name, or its end after a dot."""
    for pattern, value in (table or {}).items():
        if patterns.matches(pattern, name):
            return value
    return default


def _not_lora(source: str, kind: Any, config: Mapping[str, Any]) -> str:
    if isinstance(kind, str) and kind.upper() in _KINDS:
        return f"{source} is a {kind} adapter ({_KINDS[kind.upper()]}); only LoRA can be merged: train plain LoRA"
    if kind is None and {"lora_parameters", "fine_tune_type"}.intersection(config):
        return f"{source} is an MLX adapter (of mlx-lm); convert it to PEFT's format, or train with PEFT"
    if kind is None:
        return f"{source}: its {CONFIG} has no peft_type; is it a LoRA that PEFT saved?"
    return f"{source} is a {_shown(kind)} adapter; only LoRA can be merged"


def _patterns(source: str, name: str, found: Any) -> Mapping[str, Any]:
    if not isinstance(found, dict | None):
        raise _wrong(source, name, found, "an object of patterns and numbers")
    for pattern in found or {}:
        try:
            patterns.compiled(pattern)
        except ValueError as error:
            raise _wrong(source, name, pattern, f"a regular expression ({error}), such as .*q_proj") from None
    return found or {}


def _check_rank(source: str, name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
        raise _wrong(source, name, value, "a whole number above 0")


def _check_alpha(source: str, name: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not abs(value) < 1e30:  # NaN is not below anything
        raise _wrong(source, name, value, "a number")


def _wrong(source: str, name: str, value: Any, kind: str) -> UserError:
    return UserError(
        f"{source}: {name}={_shown(repr(value))} in its {CONFIG} is not {kind}; correct it there"
    )


def _shown(value: Any) -> str:
    """A value as it is, a text without quotes, cut to a length that a line has room for."""
    text = value if isinstance(value, str) else repr(value)
    text = visible(text)
    return text if len(text) <= 80 else f"{text[:77]}..."
