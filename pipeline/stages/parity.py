"""Does transformers, with the same adapter, agree with what the engine wrote? A few prompts per adapter.

Twofold. A greedy engine writes the likeliest token, so under transformers + PEFT every token that it wrote should be the
likeliest too, up to rounding; how far it falls short is the gap. And both should find these tokens equally likely: one that
served another adapter, or none, believes in its tokens more than transformers does with the right one. Rounding has no
side, so the mean over a hundred tokens shows a small difference that the gaps do not.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.chat import prompt_ids
from data.schema import Completion
from pipeline import artifacts
from pipeline.adapted import on_adapters
from pipeline.artifacts import Parity, model_folder
from pipeline.progress import report
from pipeline.stage_settings import Parity as Settings
from pipeline.worker import Job

CLIP = 1.0  # nats: no token counts more in the mean, so that no single one decides


@dataclass(frozen=True)
class Read:
    """What transformers makes of one reply: a gap per token, and the log-probability of all of them together (nats)."""

    gaps: list[float]
    logprob: float


def read(model: Any, tokenizer: Any, row: Completion, system: str | None) -> Read:
    """One forward pass over a prompt and the tokens that the engine wrote after it.

    gap: log-probability of the likeliest token minus that of the one written. completion_ids are what the engine wrote; its
    text, tokenised anew, may come out as others.
    """
    import torch

    head, tail = prompt_ids(tokenizer, row.prompt, system=system), row.completion_ids
    if not tail:
        return Read([], 0.0)
    with torch.inference_mode():
        ids = torch.tensor([head + tail], device=model.device)
        scores = model(input_ids=ids).logits[0, len(head) - 1 : -1].float().log_softmax(-1)
    written = scores.gather(1, torch.tensor(tail, device=model.device)[:, None])[:, 0]
    return Read((scores.max(-1).values - written).tolist(), float(written.double().sum()))


def summary(rows: list[Completion], found: list[Read], bare: list[Read] | None = None) -> Parity:
    """The numbers of an adapter; `bare` is what the model says without it."""
    gaps = [gap for its in found for gap in its.gaps]
    count = max(1, len(gaps))

    def excess(reads: list[Read]) -> float:
        told = (
            math.nan if row.logprob is None else row.logprob - its.logprob
            for row, its in zip(rows, reads, strict=True)
        )
        return math.fsum(told) / count

    return Parity(
        prompts=[row.id for row in rows],
        tokens=len(gaps),
        mean_gap=math.fsum(min(gap, CLIP) for gap in gaps) / count,
        largest_gap=max(gaps, default=0.0),
        likeliest=sum(gap == 0 for gap in gaps),
        off=sum(gap > CLIP for gap in gaps),
        excess=excess(found),
        bare_excess=None if bare is None else excess(bare),
    )


def drawn(job: Job, settings: Settings) -> list[Completion]:
    """Some replies of each benchmark, drawn by the adapter's key."""
    rng, rows = random.Random(settings.draw), list[Completion]()
    for role in sorted(role for role in job.inputs if role.startswith("replies/")):
        its = artifacts.completions(job.inputs[role])
        rows += rng.sample(its, min(settings.prompts_per_benchmark, len(its)))
    return rows


def run(jobs: list[Job]) -> None:
    """One parity.json per adapter; the model is loaded once."""
    from transformers import AutoTokenizer

    folder = model_folder(jobs[0].inputs["model"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    adapters: list[Path | None] = [job.inputs.get("adapter") for job in jobs]
    dtype = Settings(**jobs[0].settings).dtype
    for done, (i, model) in enumerate(on_adapters(folder, dtype, adapters), 1):
        job, settings = jobs[i], Settings(**jobs[i].settings)
        with job.finishing():
            rows, system = drawn(job, settings), settings.system_prompt
            found = [read(model, tokenizer, row, system) for row in rows]
            bare = None
            if adapters[i] is not None:
                with model.disable_adapter():
                    bare = [read(model, tokenizer, row, system) for row in rows]
            summary(rows, found, bare).write(job.output)
        report(done, len(jobs), job.name)
