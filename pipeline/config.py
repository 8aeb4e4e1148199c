"""From a composed Hydra config to a checked one, before anything expensive starts.

Hydra rejects a misspelt override of an existing key. What gets past it, with a plus sign or into an open dict, is looked at
here: the models of `pipeline.settings` reject unknown keys and impossible values, names must be those of things that exist,
and every `_target_` is bound to its function's signature. All without importing torch.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_args

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from data.catalogue import KNOWN, find
from pipeline import precision
from pipeline.explain import check_names, choices, explain
from pipeline.settings import Config, Method
from pipeline.training_arguments import check_training
from safemerge.errors import UserError
from safemerge.selection import Point, Source

#: What a source reads of `data.datasets.NAME`. `bundled` is a model's own choice, without harm elsewhere.
OF_HUB = {"id", "config", "split", "revision", "gated"}
READ = {
    "bundled": {"bundled", "target"},
    "local": {"bundled", "file", "target", "test_ids"},
    "hub": {"bundled", "file", "target", "test_ids", *OF_HUB},
}


def locate(target: str) -> Callable[..., Any]:
    """The function that a `_target_` names."""
    module, _, name = target.rpartition(".")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return found
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"_target_ {target!r} names no function: {error}") from error


def bind(target: str, knobs: Mapping[str, Any], where: str) -> Callable[..., Any]:
    """The function that a `_target_` names, if its signature takes these keyword arguments."""
    function = locate(target)
    known = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for knob in knobs:
        if knob not in known:
            raise UserError(f"{where}.{knob}: no such setting; {where} takes {', '.join(known) or 'none'}")
    try:
        inspect.signature(function).bind(**knobs)
    except TypeError as error:
        raise UserError(f"{where}: {error}") from error
    return function


def points(name: str, method: Method) -> list[Point]:
    """The points of a method: its function, called with its settings.

    Raises:
        UserError: the function does not take them, or gives something else than points of adapters that there are.
    """
    found: list[Point] = bind(method.target_, method.knobs, f"method.{name}")(**method.knobs)
    adapters = get_args(Source)
    for point in found:
        if not isinstance(point, Point) or point.adapter not in adapters:
            given = point.adapter if isinstance(point, Point) else point
            raise UserError(
                f"method.{name}: {method.target_} gives {given!r}; it must give Points with an adapter of "
                f"{', '.join(adapters)}"
            )
    return found


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
        raise UserError(explain(error, values)) from error
    # From here on the precision is what this machine computes in: it goes into keys, manifests and the report.
    config.train.dtype = precision.resolve(config.train.dtype, config.model.parameters)
    config.generation.dtype = precision.resolve(config.generation.dtype, config.model.parameters)
    _check_methods(config)
    for name, benchmark in config.benchmark.items():
        judged = () if benchmark.role == "utility" else ("verdicts",)
        _callable(f"benchmark.{name}", benchmark.target_, ("items", "completions", *judged))
    for name, judge in config.judge.items():
        _callable(f"judge.{name}", judge.target_, CALLED_WITH[judge.kind])
    _check_open(config)
    check_training(config.train)
    _check_together(config)
    return config


def _chosen_methods(nodes: Mapping[str, Any]) -> dict[str, Any]:
    """The methods of the experiment. A sweep may set knobs of one that was not selected; it must exist and have them."""
    known = choices("method")
    for name, node in nodes.items():
        if "_target_" in node:
            continue
        check_names("method.", [name], known, "method")
        own = yaml.safe_load(known[name].read_text(encoding="utf-8"))
        both = Method.model_validate({**own, **node})
        bind(both.target_, both.knobs, f"method.{name}")
    return {name: node for name, node in nodes.items() if "_target_" in node}


def _check_methods(config: Config) -> None:
    """The knobs of each are in range, which its function checks, and no two would be one row of the tables."""
    rows: dict[tuple[str, str | None], str] = {}
    for name, method in config.method.items():
        for point in points(name, method):
            adapted = config.train.lora.target_modules
            if point.selection.rule == "kinds" and config.task_adapter is None and isinstance(adapted, list):
                check_names(
                    f"method.{name}.kinds=", point.selection.names, adapted, "kind of adapted modules"
                )
            combine = point.combine if point.repair.kind == "blend" else None
            shown = method.display.name or point.method
            other = rows.setdefault((shown, combine), name)
            if other != name:
                merged = f" with combine={combine}" if combine else ""
                raise UserError(
                    f"method.{other} and method.{name} would be one row of the tables, {shown}{merged}: "
                    "leave one out of `method`, or give one another display.name"
                )


def _check_open(config: Config) -> None:
    """What keys of open dicts name must exist, else the setting would change nothing."""
    benchmarks = {*choices("benchmark"), *config.benchmark}
    limits = config.generation.max_tokens
    check_names("generation.max_tokens.", limits, sorted({"default", *benchmarks}), "benchmark")
    if "default" not in limits:
        raise UserError(
            "generation.max_tokens.default is missing: give the limit of benchmarks without their own"
        )
    source = config.data.where()
    own = {name for name, place in config.data.datasets.items() if place.target}
    used = {*KNOWN, *own} - {"guard"}
    for where, names in (
        ("data.limits.items", config.data.limits.items),
        ("data.datasets", config.data.datasets),
    ):
        check_names(f"{where}.", names, sorted(used), "data set")
    for name, place in config.data.datasets.items():
        dataset, read = find(name, source), READ[config.data.source]
        if dataset.github is not None:
            read = read - OF_HUB
        if dataset.divided is None:
            read = read - {"test_ids"}
        given = [key for key, value in place.model_dump().items() if value is not None]
        if unread := [key for key in given if key not in read]:
            raise UserError(
                f"data.datasets.{name}.{unread[0]} is not read with data={config.data.source}, "
                f"only {', '.join(sorted(read))}"
            )
    tests = sorted(name for name in used if find(name, source).items)
    trains = sorted(name for name in used if find(name, source).examples)
    for name, benchmark in config.benchmark.items():
        check_names(f"benchmark.{name}.dataset=", [benchmark.dataset], tests, "data set with test items")
    check_names("task.dataset=", [config.task.dataset], trains, "data set with training rows")


def _check_together(config: Config) -> None:
    """Settings that exclude or need each other."""
    if (config.generation.backend == "server") != bool(config.generation.servers):
        raise UserError(
            f"generation.backend={config.generation.backend} with generation.servers={config.generation.servers}: "
            "backend=server needs addresses, generation.servers=[http://HOST:8000/v1], and no other backend takes them"
        )
    if config.model.aligned.kind == "tuned" and config.train.align is None:
        raise UserError(
            f"model {config.model.name} is aligned by a tuning stage, which train=paper lacks; use train=small"
        )
    if any(j.kind == "trained" for j in config.judge.values()) and config.train.guard is None:
        raise UserError(
            "judge=guard is trained here, but this train config has no guard section; use train=small"
        )
    harm = [name for name, benchmark in config.benchmark.items() if benchmark.role == "harm"]
    if config.selection.harm is not None:
        check_names("selection.harm=", [config.selection.harm], harm, "harm benchmark of this run")
    refused = [name for name, benchmark in config.benchmark.items() if benchmark.role == "over_refusal"]
    if refused and not any(judge.kind == "phrases" for judge in config.judge.values()):
        raise UserError(
            f"benchmark {refused[0]} is judged by refusal phrases, and judge has {', '.join(config.judge) or 'none'}: "
            f"add refusal, as in judge=[{','.join([*config.judge, 'refusal'])}]"
        )
    if not any(b.role == "utility" for b in config.benchmark.values()):
        raise UserError(
            f"no benchmark measures utility; benchmark has {', '.join(config.benchmark) or 'none'}"
        )
    files = any(place.file for place in config.data.datasets.values())
    if config.data.root is not None and config.data.source != "local" and not files:
        raise UserError(
            f"data.root={config.data.root}: the data of data={config.data.source} is not read from there; use data=local"
        )
    for name, value, usual in (
        ("top_p", config.generation.top_p, 1),
        ("seed", config.generation.seed, 0),
    ):
        if config.generation.temperature == 0 and value != usual:
            raise UserError(
                f"generation.{name}={value:g} changes nothing at temperature 0; set generation.temperature too"
            )
    if len(set(config.stages)) < len(config.stages):
        raise UserError(f"stages={','.join(config.stages)} has a stage twice; leave one out")
