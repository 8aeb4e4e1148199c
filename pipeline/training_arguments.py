"""The arguments of the trainings, TRL's own names, looked at before the first training starts."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any

import yaml

from pipeline.explain import check_names, choices
from pipeline.settings import Train
from safemerge.errors import UserError

#: Arguments of TRL's that the training itself decides, and those that would write outside its folder.
DECIDED = (
    *(
        "output_dir",
        "logging_dir",
        "seed",
        "data_seed",
        "completion_only_loss",
        "save_strategy",
        "save_total_limit",
    ),
    *("report_to", "disable_tqdm", "use_cpu", "push_to_hub"),
)
#: How those of TRL's begin that change nothing: rows come tokenised, nothing is evaluated on the way, uploaded or named.
IDLE = (
    *(
        "eval_",
        "per_device_eval_",
        "batch_eval_",
        "prediction_loss_",
        "bf16_full_",
        "fp16_full_",
        "include_for_metrics",
    ),
    *(
        "metric_for_",
        "load_best_",
        "greater_is_",
        "do_",
        "hub_",
        "trackio_",
        "run_name",
        "project",
        "dataset_",
    ),
)
WHOLE = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_length",
    "logging_steps",
    "save_steps",
)
POSITIVE = (*WHOLE, "learning_rate", "num_train_epochs")


def _check_values(where: str, args: Mapping[str, Any]) -> None:
    """What would end a training in a traceback, after all that came before it."""
    for name, value in args.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{where}.{name}={value}: give a finite number")
        if name in DECIDED:
            raise UserError(f"{where}.{name}={value}: the training sets {name} itself; leave it out")
        if name.startswith(IDLE):
            raise UserError(
                f"{where}.{name}={value} changes nothing: rows come tokenised, and a training is not evaluated on the way, "
                "uploaded or named; leave it out"
            )
        if name in WHOLE and not (number and float(value).is_integer() and value > 0):
            raise UserError(f"{where}.{name}={value}: give a whole number above 0")
        if name in POSITIVE and not (number and value > 0):
            raise UserError(f"{where}.{name}={value}: give a number above 0")


def check_training(train: Train) -> None:
    """The arguments of the trainings: TRL's own names, none that another setting decides."""
    if train.parallel == "fsdp" and train.devices == 1:
        raise UserError(
            "train.parallel=fsdp changes nothing with train.devices=1: one device holds the whole model; set train.devices"
        )
    _check_values("train.args", train.args)
    for setting in ("bf16", "fp16"):
        if setting in train.args:
            raise UserError(
                f"train.args.{setting}={train.args[setting]}: the precision is set by train.dtype "
                "(auto, bfloat16, float16 or float32)"
            )
    usual = {
        key
        for path in choices("train").values()
        for key in yaml.safe_load(path.read_text(encoding="utf-8"))["args"]
    }
    if unusual := sorted(set(train.args) - usual):
        from trl import SFTConfig  # seconds, so only for names that no config of ours has

        check_names(
            "train.args.",
            unusual,
            [f.name for f in dataclasses.fields(SFTConfig)],
            "argument of TRL's SFTConfig",
        )
    for role in ("task", "safety", "safeinstruct", "align", "guard"):
        section = getattr(train, role)
        _check_values(f"train.{role}.args", section.args if section else {})
        for key in section.args if section else {}:
            if key not in train.args:
                near = difflib.get_close_matches(key, train.args, n=3)
                raise UserError(
                    f"train.{role}.args.{key}: not among train.args ({', '.join(near or train.args)})"
                )
