"""From a composed Hydra config to a checked one, before anything expensive starts.

Hydra rejects a misspelt override of an existing key; the models below reject misspelt or impossible values, and every
`_target_` is bound to its function's signature. All without importing torch.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from data.errors import UserError
from pipeline import precision

STAGES = ("prepare", "finetune", "similarity", "merge", "generate", "judge", "report")
StageName = Literal["prepare", "finetune", "similarity", "merge", "generate", "judge", "report"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Member(_Section):
    """One member of the base/aligned pair."""

    kind: Literal["hub", "gguf", "scratch", "tuned", "local"]
    id: str | None = None
    revision: str | None = None
    download_gb: float = Field(0.0, ge=0)
    gated: bool = False
    path: str | None = None
    package: str | None = None
    file: str | None = None
    hidden_size: int | None = Field(None, gt=0)
    intermediate_size: int | None = Field(None, gt=0)
    num_hidden_layers: int | None = Field(None, gt=0)
    num_attention_heads: int | None = Field(None, gt=0)
    num_key_value_heads: int | None = Field(None, gt=0)
    vocab_size: int | None = Field(None, ge=300)
    learning_rate: float | None = Field(None, gt=0)
    steps: int | None = Field(None, gt=0)
    batch_size: int | None = Field(None, gt=0)


class Model(_Section):
    name: str
    parameters: float = Field(gt=0)
    system_prompt: str | None
    base: Member
    aligned: Member


class Task(_Section):
    name: str
    dataset: Literal["gsm8k", "pubmedqa"]


class Limits(_Section):
    items: dict[str, int | None]
    calibration: int | None = Field(None, gt=0)


class DataSource(_Section):
    source: Literal["bundled", "local", "hub"]
    root: str | None
    limits: Limits
    datasets: dict[str, dict[str, Any]]


class Lora(_Section):
    r: int = Field(ge=1, le=1024)
    lora_alpha: float = Field(gt=0)
    lora_dropout: float = Field(ge=0, lt=1)
    target_modules: list[str] | str
    use_rslora: bool


class Role(_Section):
    """What one of the trainings is fed: rows of its data set, and deviations from `train.args`."""

    limit: int | None = Field(None, gt=0)
    safety_limit: int | None = Field(None, gt=0)
    helpful_limit: int | None = Field(None, ge=0)
    args: dict[str, Any] = {}


Dtype = Literal["auto", "bfloat16", "float16", "float32"]


class Train(_Section):
    devices: int = Field(ge=1)
    dtype: Dtype
    lora: Lora
    args: dict[str, Any]
    task: Role
    safety: Role
    safeinstruct: Role
    align: Role | None
    guard: Role | None


class Generation(_Section):
    backend: Literal["vllm", "transformers"]
    dtype: Dtype
    temperature: float = Field(ge=0)
    top_p: float = Field(gt=0, le=1)
    seed: int
    max_tokens: dict[str, int]
    max_num_seqs: int = Field(ge=1)
    max_loras: int = Field(ge=1)
    gpu_memory_utilization: float = Field(gt=0, le=1)
    tensor_parallel_size: int = Field(ge=1)


class Judge(_Section):
    target_: str = Field(alias="_target_")
    kind: Literal["probe", "trained", "hub", "phrases", "api"]
    id: str | None = None
    revision: str | None = None
    download_gb: float = 0.0
    gated: bool = False
    threshold: float | str = 0.5
    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    attempts: int = Field(5, ge=1)
    parallel: int = Field(8, ge=1)
    timeout_s: float = Field(60.0, gt=0)
    price: tuple[float, float] = (0.0, 0.0)
    max_tokens: int = Field(6, ge=1)
    depth: float = Field(0.5, gt=0, le=1)
    c: float = Field(0.01, gt=0)
    reply_tokens: int = Field(128, ge=1)

    @field_validator("threshold")
    @classmethod
    def _threshold(cls, value: float | str) -> float | str:
        if value != "calibrated" and not (isinstance(value, float) and 0 <= value <= 1):
            raise ValueError("must be a number between 0 and 1, or calibrated")
        return value

    @model_validator(mode="after")
    def _server(self) -> Judge:
        if self.kind == "api" and not (self.id and self.base_url):
            raise ValueError("a judge of kind api needs id (the model's name on the server) and base_url")
        return self


class Benchmark(_Section):
    target_: str = Field(alias="_target_")
    name: str
    role: Literal["utility", "harm", "over_refusal"]
    dataset: str


class Selection(_Section):
    keep_gain: float = Field(ge=0, le=1)
    grid: Literal["dev", "all"]


class Tracking(_Section):
    backend: Literal["wandb", "off"]
    mode: Literal["auto", "online", "offline"]
    project: str
    entity: str | None
    group: str | None
    log_adapters: bool
    log_completions: bool
    dir: str


class Config(_Section):
    """The whole experiment, resolved."""

    seed: int = Field(ge=0)
    stages: list[StageName]
    dry_run: bool
    task_adapter: str | None
    safety_adapter: str | None
    store: str
    runs: str
    selection: Selection
    data: DataSource
    train: Train
    generation: Generation
    benchmark: dict[str, Benchmark]
    judge: dict[str, Judge]
    method: dict[str, dict[str, Any]]
    task: Task
    model: Model
    tracking: Tracking


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


def _section_fields(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """Names valid beside the last element of `path`, for the error line."""
    current: Any = model
    for part in path[:-1]:
        fields = getattr(current, "model_fields", None)
        if not fields or part not in fields:
            return []
        annotation = fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        current = next((c for c in candidates if inspect.isclass(c) and issubclass(c, BaseModel)), None)
    return list(getattr(current, "model_fields", {}))


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        valid = _section_fields(Config, first["loc"])
        return f"{where}: no such setting" + (f"; valid here: {', '.join(valid)}" if valid else "")
    return f"{where}={first['input']!r}: {first['msg'][:1].lower() + first['msg'][1:]}"


def check(cfg: DictConfig) -> Config:
    """Resolve and check a composed config.

    Raises:
        UserError: with the setting, its value and what is allowed.
    """
    try:
        values: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", "")
        remedy = (
            "give it, for example data.root=../shared/datasets" if key == "data.root" else "give it a value"
        )
        raise UserError(f"{key} is missing: {remedy}") from error
    # A sweep may set knobs of a method that was not selected: without a _target_ it is not part of the experiment.
    values["method"] = {name: node for name, node in values["method"].items() if "_target_" in node}
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(error)) from error
    # From here on the precision is what this machine computes in: it goes into keys, manifests and the report.
    config.train.dtype = precision.resolve(config.train.dtype)
    config.generation.dtype = precision.resolve(config.generation.dtype)
    for setting in ("bf16", "fp16"):
        if setting in config.train.args:
            raise UserError(
                f"train.args.{setting}={config.train.args[setting]}: the precision is set by train.dtype "
                "(auto, bfloat16, float16 or float32)"
            )
    for name, node in config.method.items():
        function, knobs = bind(node, f"method.{name}")
        function(**knobs)  # a method's constructor checks the range of its knobs
    for group in ("benchmark", "judge"):
        for node in getattr(config, group).values():
            locate(node.target_)
    for role in ("task", "safety", "safeinstruct", "align", "guard"):
        section = getattr(config.train, role)
        for key in section.args if section else {}:
            if key not in config.train.args:
                near = difflib.get_close_matches(key, config.train.args, n=3)
                raise UserError(
                    f"train.{role}.args.{key}: not among train.args ({', '.join(near or config.train.args)})"
                )
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
    return config
