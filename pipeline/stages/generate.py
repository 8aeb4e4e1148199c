"""Completions: the aligned model is loaded once and serves every adapter that still lacks some, all prompts in one engine.

Each finished completion is written down at once; an interrupted run goes on with those that are missing.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from data.chat import prompt_ids
from data.schema import Completion, ids_digest, write_jsonl
from evaluation.engine import Request, generate
from pipeline import artifacts, partial_rows
from pipeline.artifacts import COMPLETIONS, model_folder
from pipeline.progress import report
from pipeline.stage_settings import Generate
from pipeline.unkeyed import Engine
from pipeline.worker import Job, finish


def finished_rows(folder: Path) -> dict[str, Completion]:
    """Completions that an interrupted run already wrote, by id."""
    rows: dict[str, Completion] = {}
    for found in partial_rows.finished(folder):
        with contextlib.suppress(TypeError):
            row = Completion(**found)
            rows[row.id] = row
    return rows


@dataclass
class Work:
    """One job's prompts, and the completions that it has so far, by item id."""

    job: Job
    prompts: dict[str, str]
    done: dict[str, Completion]
    stream: TextIO

    def add(self, row: Completion) -> None:
        """Take a completion and write it down at once."""
        self.done[row.id] = row
        partial_rows.add(self.stream, asdict(row))

    def finish(self, seconds: float) -> None:
        """Put the completions into the order of the prompts and finish the job."""
        self.stream.close()
        rows = [self.done[key] for key in self.prompts]
        self.job.count_tokens(sum(row.completion_tokens for row in rows))
        write_jsonl(self.job.output / COMPLETIONS, rows)
        partial_rows.remove(self.job.output)
        finish(self.job, seconds)


def run(jobs: list[Job]) -> None:
    """Generate for all jobs, which share one model and its decoding settings but for max_tokens and the system prompt."""
    from transformers import AutoTokenizer

    start = time.monotonic()
    folder, settings = model_folder(jobs[0].inputs["model"]), Generate(**jobs[0].settings)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    work: list[Work] = []
    requests: dict[str, tuple[Work, str, Request]] = {}
    for number, job in enumerate(jobs):
        mine = Generate(**job.settings)
        asked = artifacts.items(job.inputs["items"])
        prompts = {item.id: item.prompt for item in asked if item.half == mine.half}
        its = Work(job, prompts, finished_rows(job.output), partial_rows.appending(job.output))
        work.append(its)
        for key, prompt in prompts.items():
            if key in its.done:
                continue
            ids = prompt_ids(tokenizer, prompt, system=mine.system_prompt)
            name, adapter = f"{number}:{key}", job.inputs.get("adapter")
            request = Request(name, ids, mine.max_tokens, adapter, job.adapter_key, item=key)
            requests[name] = its, key, request
    total = sum(len(its.prompts) for its in work)
    count = total - len(requests)
    engine = jobs[0].beside(Engine)
    report(count, total, "loading the model")
    if requests:
        replies = generate(
            folder,
            [request for _, _, request in requests.values()],
            backend=settings.backend,
            dtype=settings.dtype,
            temperature=settings.temperature,
            top_p=1.0 if settings.top_p is None else settings.top_p,
            seed=settings.seed or 0,
            max_num_seqs=engine.max_num_seqs,
            max_loras=engine.max_loras,
            gpu_memory_utilization=engine.gpu_memory_utilization,
            tensor_parallel_size=engine.tensor_parallel_size,
            data_parallel_size=engine.data_parallel_size,
            servers=engine.servers,
        )
        for reply in replies:
            its, key, _ = requests[reply.key]
            its.add(
                Completion(
                    key,
                    its.prompts[key],
                    reply.text,
                    prompt_tokens=len(reply.prompt_ids),
                    completion_tokens=reply.tokens,
                    finish_reason=reply.finish_reason,
                    completion_ids=reply.ids,
                    logprob=round(reply.logprob, 4),
                    prompt_digest=ids_digest(reply.prompt_ids),
                )
            )
            count += 1
            if count % 8 == 0 or count == total:
                report(count, total, "completions")
    for its in work:
        its.finish(time.monotonic() - start)
