"""What each adapter finds likely: the reference answers of a task, and refusals of prompts. The model is loaded once."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

from data.chat import example_ids, prompt_ids
from data.schema import Item, Measure, spread, write_jsonl
from evaluation.likelihood import Progress, opening_ids, reference_bits, refusal_log_odds
from pipeline import artifacts
from pipeline.adapted import added_to
from pipeline.artifacts import MEASURES, model_folder
from pipeline.progress import report
from pipeline.stage_settings import Likelihood
from pipeline.worker import Job
from safemerge.errors import UserError


class Reader:
    """Measures a model. What it is given is encoded once: all adapters are asked about the same prompts."""

    def __init__(self, tokenizer: Any) -> None:
        self.example = functools.cache(functools.partial(example_ids, tokenizer))
        self.prompt = functools.cache(functools.partial(prompt_ids, tokenizer))
        self.openings = functools.cache(lambda texts, system: opening_ids(tokenizer, texts, system))

    def measured(
        self, model: Any, items: list[Item], settings: Likelihood, progress: Progress
    ) -> list[Measure]:
        """A measure per item, in their order."""
        system = settings.system_prompt
        if settings.measure == "reference_bits":
            rows = [self.example(item.prompt, item.answer, system=system) for item in items]
            found = reference_bits(model, rows, progress)
        else:
            prompts = [self.prompt(item.prompt, system=system) for item in items]
            openings = self.openings(tuple(settings.openings), system)
            found = refusal_log_odds(model, prompts, openings, progress)
        for item, value in zip(items, found, strict=True):
            if not math.isfinite(value):
                raise UserError(
                    f"{settings.measure} of {item.id} is {value} in {settings.dtype}: the model's states left its range; "
                    "use generation.dtype=bfloat16 or float32"
                )
        return [Measure(item.id, value) for item, value in zip(items, found, strict=True)]


def asked(job: Job) -> list[Item]:
    """The prompts that are read: of the half and the label, and so many at most, at equal distances."""
    settings = Likelihood(**job.settings)
    items = artifacts.items(job.inputs["items"])
    mine = [item for item in items if (item.half, item.label) == (settings.half, settings.label)]
    return spread(mine, settings.prompts or len(mine))


def run(jobs: list[Job]) -> None:
    """One measures.jsonl per job; the jobs share a model."""
    from transformers import AutoTokenizer

    folder, dtype = model_folder(jobs[0].inputs["model"]), Likelihood(**jobs[0].settings).dtype
    reader = Reader(AutoTokenizer.from_pretrained(folder))
    adapters: list[Path | None] = [job.inputs.get("adapter") for job in jobs]
    wanted = [asked(job) for job in jobs]
    before, total = 0, sum(map(len, wanted))
    report(0, total, "loading the model")
    for i, model in added_to(folder, dtype, adapters):
        job, items = jobs[i], wanted[i]
        with job.finishing():

            def progress(done: int, before: int = before) -> None:
                report(before + done, total, "prompts")

            rows = reader.measured(model, items, Likelihood(**job.settings), progress)
            write_jsonl(job.output / MEASURES, rows)
        before += len(items)
