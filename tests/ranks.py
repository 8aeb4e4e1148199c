"""Trainings of a pico model in one process and in two: what tests of several devices compare."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from data.schema import Example, write_jsonl
from pipeline.artifacts import ROWS
from pipeline.job import Job
from pipeline.stage_settings import Finetune
from pipeline.unkeyed import Share, written
from pipeline.worker_process import Outcome, launched
from tests.finished_run import tokenizer

LORA = {
    "r": 4,
    "lora_alpha": 8.0,
    "lora_dropout": 0.0,
    "target_modules": ["q_proj", "down_proj"],
    "use_rslora": False,
}
ARGS = {
    "max_steps": -1,
    "num_train_epochs": 2,
    "learning_rate": 0.01,
    "max_length": 128,
    "logging_steps": 1,
    "save_steps": 2,
}


@dataclass(frozen=True)
class Case:
    """A training: its order, and how one process and each of two take a batch of 8 rows (rows at once, accumulation)."""

    order: str
    one: tuple[int, int]
    two: tuple[int, int]
    rows: str = "rows"
    checkpointing: bool = False


#: 21 rows: the third batch of an epoch has 5, which neither 2 x 4 nor 2 x 2 share evenly.
CASES = {
    "whole batches": Case("random", (8, 1), (4, 1)),
    "accumulated": Case("random", (2, 4), (2, 2), checkpointing=True),
    "by length": Case("group_by_length", (8, 1), (2, 2)),
    "fewer rows than ranks hold": Case("random", (8, 1), (4, 1), rows="three"),
}


class Trainings:
    """A pico model, its rows, and the folders that trainings write into."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        tokenizer().save_pretrained(folder / "model")
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        LlamaForCausalLM(LlamaConfig(vocab_size=320, **sizes)).save_pretrained(folder / "model")
        for name, number in (("rows", 21), ("three", 3)):
            rows = [Example(str(i), "say " + "a" * (i % 7), "b" * (3 + 5 * i % 11)) for i in range(number)]
            (folder / name).mkdir()
            write_jsonl(folder / name / ROWS, rows)

    def job(self, case: Case, name: str, share: Share) -> Job:
        args = {**ARGS, "train_sampling_strategy": case.order}
        settings = Finetune("task", LORA, "float32", 8, args, 3, None)
        output = self.folder / name
        output.mkdir(exist_ok=True)
        inputs = {"model": self.folder / "model", "task": self.folder / case.rows}
        return Job(name, json.loads(json.dumps(settings.keyed())), share, inputs, output)

    def one(self, case: Case, name: str) -> Job:
        return self.job(case, f"one {name}", Share(1, *case.one))

    def two(self, case: Case, name: str, parallel: str = "ddp") -> Job:
        share = Share(2, *case.two, gradient_checkpointing=case.checkpointing, parallel=parallel)
        return self.job(case, f"two {name}", share)

    def launch(self, jobs: list[Job], told: list[Any], parallel: str = "ddp") -> Outcome:
        """Two ranks carry the jobs out; `told` is added the progress."""
        spec = {"stage": "finetune", "log": "", "jobs": [_told(job) for job in jobs]}
        return launched(spec, parallel, 2, self.folder / "log", lambda *progress: told.append(progress))


def _told(job: Job) -> dict[str, Any]:
    its = asdict(replace(job, inputs={}, unkeyed=Share(1, 1, 1)))
    inputs = {role: str(path) for role, path in job.inputs.items()}
    return {**its, "unkeyed": written(job.unkeyed), "inputs": inputs, "output": str(job.output)}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")
