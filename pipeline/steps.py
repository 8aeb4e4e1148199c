"""The steps that an experiment is made of, each from its part of the config. `pipeline.plan` puts them together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data import loading
from pipeline.settings import Config, Member, ProbeJudge, Role
from pipeline.store import External, Step
from safemerge.errors import UserError


def _fingerprint(dataset: str, split: str, source: dict[str, Any]) -> str:
    if (
        source["source"] == "hub"
        and dataset == "safety"
        and not source["datasets"].get("safety", {}).get("file")
    ):
        return (
            "file not given"  # `make plan` still prints; preflight asks for the file before anything starts
        )
    return loading.fingerprint(dataset, source=source, split=split)


def training_rows(
    config: Config, name: str, dataset: str, limit: int | None, part: str | None = None
) -> Step:
    """A training set: `limit` rows (None: all) of a data set, or of one of its disjoint parts. `name` is for the screen."""
    source = config.data.model_dump(exclude={"limits"})
    settings = {
        "what": "training",
        "dataset": dataset,
        "limit": limit,
        "part": part,
        "fingerprint": _fingerprint(dataset, "train", source),
    }
    return Step("prepare", f"rows for {name}", settings, {}, {"source": source})


def items(config: Config, dataset: str) -> Step:
    """A benchmark's prompts with references, both halves."""
    source = config.data.model_dump(exclude={"limits"})
    settings = {
        "what": "items",
        "dataset": dataset,
        "limit": config.data.limits.items.get(dataset),
        "fingerprint": _fingerprint(dataset, "test", source),
    }
    return Step("prepare", f"prompts of {dataset}", settings, {}, {"source": source})


def labelled_pairs(split: str, limit: int | None = None) -> Step:
    """Labelled (prompt, reply) pairs for a judge of ours: `train`, or `calibration`, which measures it."""
    settings: dict[str, Any] = {
        "what": "guard",
        "split": split,
        "fingerprint": loading.fingerprint("guard", split=split),
    }
    if split == "train":
        settings |= {"limit": limit}
    return Step("prepare", "calibration pairs" if split == "calibration" else "labelled pairs", settings)


def probe(config: Config, name: str, judge: ProbeJudge, base: Step, pairs: Step, calibration: Step) -> Step:
    """The linear head of a judge that reads a frozen model's hidden states, with its threshold."""
    settings = {
        "what": "probe",
        "target": judge.target_,
        **judge.model_dump(include={"depth", "c", "reply_tokens", "threshold"}),
        "dtype": config.generation.dtype,
    }
    return Step(
        "prepare", f"{name} head", settings, {"model": base, "pairs": pairs, "calibration": calibration}
    )


def member(name: str, model: Member) -> Step:
    """A model folder: from the hub, from a packaged GGUF, from scratch or of your own."""
    settings = {
        k: v for k, v in model.model_dump().items() if v is not None and k not in ("gated", "download_gb")
    }
    return Step("prepare", f"{name} model", {"what": "model", **settings})


def lora(config: Config, role: str, model: Step, rows: dict[str, Step], section: Role, seed: int) -> Step:
    """A training. All roles share one stage; they differ in rows, model and the arguments that `section` overrides."""
    settings = {
        "role": role,
        "lora": config.train.lora.model_dump(),
        "dtype": config.train.dtype,
        "args": {**config.train.args, **section.args},
        "seed": seed,
        "system_prompt": config.model.system_prompt,
    }
    speed = {"devices": config.train.devices}
    return Step("finetune", f"{role} LoRA", settings, {"model": model, **rows}, speed)


def external(name: str, path: str | None) -> External | None:
    """An adapter of the user's own in place of a trained one; None without a path.

    Raises:
        UserError: no PEFT adapter in that folder.
    """
    if path is None:
        return None
    folder = Path(path)
    if not (folder / "adapter_config.json").exists():
        raise UserError(
            f"{name}={path}: no PEFT adapter there (adapter_config.json is missing); give the adapter's folder"
        )
    return External(name, folder)
