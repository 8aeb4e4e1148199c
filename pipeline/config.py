"""From a composed Hydra config to a checked one, before anything expensive starts.

Hydra rejects a misspelt override of an existing key. What gets past it, with a plus sign or into an open dict, is looked at
here: the models of `pipeline.settings` reject unknown keys and impossible values, names must be those of things that exist,
and every `_target_` is bound to its function's signature. All without importing torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from data.sources import LOCAL
from pipeline import precision
from pipeline.settings import Config
from safemerge.errors import UserError

CONF = Path(__file__).resolve().parent.parent / "conf"
#: What a source reads of `data.datasets.NAME`; None: everything. `bundled` is a model's own choice, without harm elsewhere.
READ = {"bundled": {"bundled"}, "local": {"bundled", "file", "test_ids"}, "hub": None}
DATASETS = sorted({name for name, _ in LOCAL})


def choices(group: str) -> dict[str, Path]:
    """The configs of a group, by name."""
    return {path.stem: path for path in sorted((CONF / group).glob("*.yaml"))}


def locate(target: str) -> Callable[..., Any]:
    """The function that a `_target_` names."""
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"_target_ {target!r} names no function: {error}") from error


def bind(node: Mapping[str, Any], where: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function of a node with `_target_`, and its keyword arguments, checked against the signature."""
    function = locate(str(node["_target_"]))
    knobs = {k: v for k, v in node.items() if k != "_target_"}
    known = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for knob in knobs:
        if knob not in known:
            raise UserError(f"{where}.{knob}: no such setting; {where} takes {', '.join(known) or 'none'}")
    try:
        inspect.signature(function).bind(**knobs)
    except TypeError as error:
        raise UserError(f"{where}: {error}") from error
    return function, knobs


def _fields_beside(path: tuple[Any, ...], values: Any) -> list[str]:
    """Names valid beside the last element of `path`, for the error line; `values` tell which member of a union is meant."""
    current: Any = Config
    for part in path[:-1]:
        values = values.get(part) if isinstance(values, Mapping) else None
        fields = getattr(current, "model_fields", {})
        annotation = fields[part].annotation if part in fields else _value_type(current)
        current = _model_in(annotation, values)
        if current is None:
            return []
    if not inspect.isclass(current) or not issubclass(current, BaseModel):
        return []
    return [field.alias or name for name, field in current.model_fields.items()]


def _value_type(annotation: Any) -> Any:
    """V of dict[str, V]."""
    arguments = getattr(annotation, "__args__", ())
    return arguments[1] if getattr(annotation, "__origin__", None) is dict else None


def _model_in(annotation: Any, values: Any) -> Any:
    """The model class (or dict type) that an annotation holds; of several the one whose `kind` the values name."""
    if getattr(annotation, "__origin__", None) is dict:
        return annotation
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation
    found = [_model_in(a, values) for a in getattr(annotation, "__args__", ())]
    models = [m for m in found if m is not None]
    kind = values.get("kind") if isinstance(values, Mapping) else None
    named = [
        m
        for m in models
        if kind and kind in getattr(m.model_fields.get("kind"), "annotation", object).__args__
    ]
    return (named or models or [None])[0]


def _explain(error: ValidationError, values: Mapping[str, Any]) -> str:
    """The first complaint in one line: the setting, its value, and what is valid there."""
    first = error.errors()[0]
    loc = _without_tags(first["loc"], values)
    where = ".".join(str(part) for part in loc)
    if first["type"] == "extra_forbidden":
        valid = _fields_beside(loc, values)
        return f"{where}: no such setting{_hint(str(loc[-1]), valid)}"
    if first["type"] == "missing":
        return f"{where} is missing: give it a value"
    if first["type"].startswith("union_tag"):
        kinds = first.get("ctx", {}).get("expected_tags", "")
        got = first.get("ctx", {}).get("tag")
        return (
            f"{where}.kind={got}: no such kind; one of {kinds}"
            if got
            else f"{where}: no such thing; {_closest(loc)}"
        )
    return f"{where}={first['input']!r}: {first['msg'][:1].lower() + first['msg'][1:]}"


def _without_tags(loc: tuple[Any, ...], values: Any) -> tuple[Any, ...]:
    """pydantic names the member of a union in the path (base, gguf, vocab_size); users do not."""
    path: list[Any] = []
    for i, part in enumerate(loc):
        kind = values.get("kind") if isinstance(values, Mapping) else None
        if part == kind and i < len(loc) - 1 and part not in values:
            continue
        path.append(part)
        values = values.get(part) if isinstance(values, Mapping) else None
    return tuple(path)


def _closest(loc: tuple[Any, ...]) -> str:
    valid = list(choices(str(loc[0])))
    near = difflib.get_close_matches(str(loc[-1]), valid, n=1)
    return f"did you mean {near[0]}?" if near else f"{loc[0]} is one of {', '.join(valid)}"


def _hint(name: str, valid: Collection[str]) -> str:
    near = difflib.get_close_matches(name, valid, n=1)
    return (f"; did you mean {near[0]}?" if near else "") + (
        f" valid here: {', '.join(valid)}" if valid else ""
    )


def _names(where: str, names: Iterable[str], valid: Collection[str], what: str) -> None:
    """UserError for the first name that is none of the valid ones."""
    for name in names:
        if name not in valid:
            raise UserError(f"{where}.{name}: no such {what}{_hint(name, valid)}")


#: The arguments with which the `_target_` of each kind of judge is called.
CALLED_WITH: dict[str, tuple[str, ...]] = {
    "phrases": ("completions",),
    "api": (
        "completions",
        "model",
        "max_tokens",
        "base_url",
        "api_key_env",
        "attempts",
        "parallel",
        "timeout_s",
    ),
    "probe": ("features", "unsafe", "layers", "reply_tokens", "c"),
    "trained": (),
    "hub": (),
}


def _callable(where: str, target: str, arguments: tuple[str, ...]) -> None:
    """UserError unless the target takes these arguments; a guard's format, which takes none, must have its three parts."""
    found = locate(target)
    try:
        inspect.signature(found).bind(**dict.fromkeys(arguments))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{where}._target_={target} cannot be called as this kind of thing is: {error}"
        ) from error
    lacking = [name for name in ("prompt", "parse", "words") if not hasattr(found, name)]
    if not arguments and lacking:
        raise UserError(
            f"{where}._target_={target} has no {lacking[0]}: a guard's format has prompt, parse and words"
        )


def check(cfg: DictConfig) -> Config:
    """Resolve and check a composed config.

    Raises:
        UserError: with the setting, its value and what is allowed.
    """
    try:
        values: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", "")
        remedy = "give the folder of the files, data.root=DIR" if key == "data.root" else "give it a value"
        raise UserError(f"{key} is missing: {remedy}") from error
    values["method"] = _chosen_methods(values["method"])
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(error, values)) from error
    # From here on the precision is what this machine computes in: it goes into keys, manifests and the report.
    config.train.dtype = precision.resolve(config.train.dtype)
    config.generation.dtype = precision.resolve(config.generation.dtype)
    for name, node in config.method.items():
        function, knobs = bind(node, f"method.{name}")
        function(**knobs)  # a method's constructor checks the range of its knobs
    for name, benchmark in config.benchmark.items():
        judged = () if benchmark.role == "utility" else ("verdicts",)
        _callable(f"benchmark.{name}", benchmark.target_, ("items", "completions", *judged))
    for name, judge in config.judge.items():
        _callable(f"judge.{name}", judge.target_, CALLED_WITH[judge.kind])
    _check_names(config)
    _check_training(config)
    _check_together(config)
    return config


def _chosen_methods(nodes: Mapping[str, Any]) -> dict[str, Any]:
    """The methods of the experiment. A sweep may set knobs of one that was not selected; it must exist and have them."""
    known = choices("method")
    for name, node in nodes.items():
        if "_target_" in node:
            continue
        _names("method", [name], known, "method")
        own = yaml.safe_load(known[name].read_text(encoding="utf-8"))
        bind({**own, **node}, f"method.{name}")
    return {name: node for name, node in nodes.items() if "_target_" in node}


def _check_names(config: Config) -> None:
    """What keys of open dicts name must exist, else the setting would change nothing."""
    benchmarks = {*choices("benchmark"), *config.benchmark}
    limits = config.generation.max_tokens
    _names("generation.max_tokens", limits, sorted({"default", *benchmarks}), "benchmark")
    if "default" not in limits:
        raise UserError(
            "generation.max_tokens.default is missing: give the limit of benchmarks without their own"
        )
    used = {*DATASETS, *(b.dataset for b in config.benchmark.values())}
    for where, names in (
        ("data.limits.items", config.data.limits.items),
        ("data.datasets", config.data.datasets),
    ):
        _names(where, names, sorted(used), "data set")
    for name, place in config.data.datasets.items():
        given = [key for key, value in place.model_dump().items() if value is not None]
        read = READ[config.data.source] or given
        if unread := [key for key in given if key not in read]:
            raise UserError(
                f"data.datasets.{name}.{unread[0]} is not read with data={config.data.source}, "
                f"only {', '.join(sorted(read))}"
            )
    for name, benchmark in config.benchmark.items():
        _names(f"benchmark.{name}.dataset", [benchmark.dataset], DATASETS, "data set")


def _check_training(config: Config) -> None:
    """The arguments of the trainings: TRL's own names, none that another setting decides."""
    for setting in ("bf16", "fp16"):
        if setting in config.train.args:
            raise UserError(
                f"train.args.{setting}={config.train.args[setting]}: the precision is set by train.dtype "
                "(auto, bfloat16, float16 or float32)"
            )
    usual = {
        key
        for path in choices("train").values()
        for key in yaml.safe_load(path.read_text(encoding="utf-8"))["args"]
    }
    if unusual := sorted(set(config.train.args) - usual):
        from trl import SFTConfig  # seconds, so only for names that no config of ours has

        _names(
            "train.args",
            unusual,
            [f.name for f in dataclasses.fields(SFTConfig)],
            "argument of TRL's SFTConfig",
        )
    for role in ("task", "safety", "safeinstruct", "align", "guard"):
        section = getattr(config.train, role)
        for key in section.args if section else {}:
            if key not in config.train.args:
                near = difflib.get_close_matches(key, config.train.args, n=3)
                raise UserError(
                    f"train.{role}.args.{key}: not among train.args ({', '.join(near or config.train.args)})"
                )


def _check_together(config: Config) -> None:
    """Settings that exclude or need each other."""
    if config.model.aligned.kind == "tuned" and config.train.align is None:
        raise UserError(
            f"model {config.model.name} is aligned by a tuning stage, which train=paper lacks; use train=small"
        )
    if any(j.kind == "trained" for j in config.judge.values()) and config.train.guard is None:
        raise UserError(
            "judge=guard is trained here, but this train config has no guard section; use train=small"
        )
    if not any(b.role == "utility" for b in config.benchmark.values()):
        raise UserError(
            f"no benchmark measures utility; benchmark has {', '.join(config.benchmark) or 'none'}"
        )
    if config.data.root is not None and config.data.source == "bundled":
        raise UserError(
            f"data.root={config.data.root}: the bundled data is not read from there; add data=local"
        )
    if config.generation.temperature == 0 and config.generation.top_p != 1:
        raise UserError(
            f"generation.top_p={config.generation.top_p:g} changes nothing at temperature 0; set generation.temperature too"
        )
