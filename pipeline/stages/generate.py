"""Completions: the aligned model is loaded once and serves every adapter that still lacks some, all prompts in one engine.

Each finished completion is written down at once; an interrupted run goes on with those that are missing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TextIO

from data.chat import prompt_ids
from data.schema import read_jsonl
from evaluation.engine import Request, generate
from pipeline.progress import report
from pipeline.stages.prepare import model_folder
from pipeline.worker import Job, finish

PARTIAL = "rows.partial.jsonl"  # in the order of arrival; a last line cut by a crash is ignored


def finished_rows(folder: Path) -> dict[str, dict[str, Any]]:
    """Rows that an interrupted run already wrote, by id."""
    path, rows = folder / PARTIAL, {}
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            rows[row["id"]] = row
    return rows


def appending(folder: Path) -> TextIO:
    """The file of finished rows, opened to go on writing; after a cut last line the next row starts on a new one."""
    path = folder / PARTIAL
    cut = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
    stream = path.open("a")
    if cut:
        stream.write("\n")
    return stream


def write_final(job: Job, name: str, ids: list[str], rows: dict[str, dict[str, Any]], seconds: float) -> None:
    """Put the rows into the order of the prompts and finish the job."""
    (job.output / name).write_text("".join(json.dumps(rows[i]) + "\n" for i in ids))
    (job.output / PARTIAL).unlink(missing_ok=True)
    finish(job, seconds)


def run(jobs: list[Job]) -> None:
    """Generate for all jobs, which share one model and its decoding settings but for max_tokens."""
    import time

    from transformers import AutoTokenizer

    start = time.monotonic()
    folder, settings = model_folder(jobs[0].inputs["model"]), jobs[0].settings
    tokenizer = AutoTokenizer.from_pretrained(folder)
    requests: list[Request] = []
    prompts: list[dict[str, str]] = []
    lengths: list[dict[str, int]] = []
    done: list[dict[str, dict[str, Any]]] = []
    for number, job in enumerate(jobs):
        items = [
            item
            for item in read_jsonl(job.inputs["items"] / "rows.jsonl")
            if item["half"] == job.settings["half"]
        ]
        prompts.append({item["id"]: item["prompt"] for item in items})
        lengths.append({})
        done.append(finished_rows(job.output))
        adapter = job.inputs.get("adapter")
        for item in items:
            ids = prompt_ids(tokenizer, item["prompt"], system=settings["system_prompt"])
            lengths[number][item["id"]] = len(ids)
            if item["id"] not in done[number]:
                key = job.speed["adapter_key"] or ""
                requests.append(
                    Request(f"{number}:{item['id']}", ids, job.settings["max_tokens"], adapter, key)
                )
    streams = [appending(job.output) for job in jobs]
    total = sum(len(p) for p in prompts)
    count = total - len(requests)
    speed = {k: v for k, v in jobs[0].speed.items() if k != "adapter_key"}
    sampling = {k: settings[k] for k in ("temperature", "top_p", "seed") if k in settings}
    report(count, total, "loading the model")
    if requests:
        replies = generate(
            folder, requests, backend=settings["backend"], dtype=settings["dtype"], **sampling, **speed
        )
        for reply in replies:
            position, _, key = reply.key.partition(":")
            n = int(position)
            row = {
                "id": key,
                "prompt": prompts[n][key],
                "completion": reply.text,
                "prompt_tokens": lengths[n][key],
                "completion_tokens": reply.tokens,
                "completion_ids": reply.ids,
                "finish_reason": reply.finish_reason,
            }
            streams[n].write(json.dumps(row) + "\n")
            streams[n].flush()
            done[n][key] = row
            count += 1
            if count % 8 == 0 or count == total:
                report(count, total, "completions")
    for n, job in enumerate(jobs):
        streams[n].close()
        job.count_tokens(sum(row["completion_tokens"] for row in done[n].values()))
        write_final(job, "completions.jsonl", list(prompts[n]), done[n], time.monotonic() - start)
