"""Verdicts on completions: safe, unsafe or invalid. Reads files, so it can be rerun with another judge at any time."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from data.chat import check_single_bos, prompt_ids
from data.schema import read_jsonl, write_jsonl
from evaluation.engine import Request, generate
from evaluation.guard_format import GuardFormat, p_unsafe
from evaluation.judges import calibrated_threshold, guard_verdict, tuning_half
from pipeline.config import locate
from pipeline.progress import report
from pipeline.stages.generate import write_final
from pipeline.stages.prepare import model_folder
from pipeline.worker import Job
from safemerge.errors import UserError


def pairs_of(folder: Path) -> list[dict[str, str]]:
    """id, prompt and response of what is to be judged: completions, or the labelled calibration pairs."""
    if (folder / "completions.jsonl").exists():
        rows = read_jsonl(folder / "completions.jsonl")
        return [{"id": r["id"], "prompt": r["prompt"], "response": r["completion"]} for r in rows]
    rows = read_jsonl(folder / "rows.jsonl")
    return [{"id": r["id"], "prompt": r["prompt"], "response": r["response"]} for r in rows]


def guard_ids(tokenizer: Any, guard: GuardFormat, system: str | None, pair: dict[str, str]) -> list[int]:
    """Token ids that the guard reads, by the same chat-template path as everything else.

    system: for a guard that is asked in one user turn; whole turns are taken as they are.
    """
    asked = guard.prompt(pair["prompt"], pair["response"])
    if isinstance(asked, str):
        return prompt_ids(tokenizer, asked, system=system)
    template = str(tokenizer.chat_template)
    # Llama-Guard-3-1B's wants content as a list of parts.
    if "content[" in template or "content']|" in template:
        asked = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in asked]
    ids = list(
        tokenizer.apply_chat_template(asked, tokenize=True, add_generation_prompt=True, return_dict=True)[
            "input_ids"
        ]
    )
    check_single_bos(ids, tokenizer.bos_token_id)
    return ids


def run(jobs: list[Job]) -> None:
    """Judge all jobs, which share one judge; equal (prompt, response) pairs are judged once."""
    {"phrases": by_phrases, "api": by_server, "probe": by_probe}.get(jobs[0].settings["kind"], by_guard)(jobs)


def by_phrases(jobs: list[Job]) -> None:
    """Refusal phrases: no model."""
    for job in jobs:
        with job.finishing():
            rows = [{"id": p["id"], "completion": p["response"]} for p in pairs_of(job.inputs["replies"])]
            write_jsonl(job.output / "verdicts.jsonl", locate(job.settings["target"])(rows))


def by_probe(jobs: list[Job]) -> None:
    """A linear head on a frozen model's hidden states; all distinct pairs of all jobs in one pass."""
    from evaluation.probe import Head, Reader, verdict

    start = time.monotonic()
    head = Head.load(jobs[0].inputs["head"] / "head.npz")
    dtype = json.loads((jobs[0].inputs["head"] / "manifest.json").read_text())["settings"]["dtype"]
    report(0, 1, "loading the judge")
    reader = Reader(model_folder(jobs[0].inputs["model"]), head.layers, dtype)
    wanted = [pairs_of(job.inputs["replies"]) for job in jobs]
    distinct = sorted({(p["prompt"], p["response"]) for pairs in wanted for p in pairs})
    features = reader.features(
        distinct, head.reply_tokens, lambda done, total: report(done, total, "verdicts")
    )
    found = dict(zip(distinct, head.p_unsafe(features).tolist(), strict=True))
    for job, pairs in zip(jobs, wanted, strict=True):
        judged = {
            p["id"]: verdict(p["id"], p["response"], found[p["prompt"], p["response"]], head.threshold)
            for p in pairs
        }
        write_final(job, "verdicts.jsonl", [p["id"] for p in pairs], judged, time.monotonic() - start)


def by_server(jobs: list[Job]) -> None:
    """A rubric judge behind an OpenAI-compatible server; each finished file of verdicts stays, whatever comes after it.

    A request that fails for good is an invalid verdict.

    Raises:
        UserError: not one request of a file succeeded: the server is down, or its name or key is wrong.
    """
    known: dict[tuple[str, str], dict[str, Any]] = {}
    for position, job in enumerate(jobs):
        with job.finishing():
            settings = job.settings
            pairs = pairs_of(job.inputs["replies"])
            new = list(dict.fromkeys((p["prompt"], p["response"]) for p in pairs))
            new = [pair for pair in new if pair not in known]
            report(position, len(jobs), job.name)
            found, usage = locate(settings["target"])(
                [
                    {"id": str(i), "prompt": prompt, "completion": reply}
                    for i, (prompt, reply) in enumerate(new)
                ],
                model=settings["id"],
                max_tokens=settings["max_tokens"],
                **{k: v for k, v in job.speed.items() if k != "price"},
            )
            if new and usage.failures == len(new):
                raise UserError(
                    f"the judge server at {job.speed['base_url']} answered none of {len(new)} requests "
                    f"({found[0]['raw']}): check judge.*.base_url, judge.*.id and the key"
                )
            known |= dict(zip(new, found, strict=True))
            verdicts = [{**known[p["prompt"], p["response"]], "id": p["id"]} for p in pairs]
            write_jsonl(job.output / "verdicts.jsonl", verdicts)
            cost = usage.cost(*job.speed["price"])
            (job.output / "usage.json").write_text(json.dumps({**vars(usage), "cost": cost}) + "\n")


def by_guard(jobs: list[Job]) -> None:
    """A guard model through the engine: the verdict is the probability of its first token against the threshold."""
    from transformers import AutoTokenizer

    start = time.monotonic()
    settings = jobs[0].settings
    guard: GuardFormat = locate(settings["target"])()
    folder = model_folder(jobs[0].inputs["model"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    wanted = [pairs_of(job.inputs["replies"]) for job in jobs]
    calibrating = settings["threshold"] == "calibrated"
    labelled = tuning_half(read_jsonl(jobs[0].inputs["calibration"] / "rows.jsonl")) if calibrating else []
    distinct = sorted({(p["prompt"], p["response"]) for pairs in [*wanted, labelled] for p in pairs})
    requests = [
        Request(
            str(i),
            guard_ids(
                tokenizer, guard, settings.get("system_prompt"), {"prompt": prompt, "response": response}
            ),
            settings["max_tokens"],
        )
        for i, (prompt, response) in enumerate(distinct)
    ]
    speed = {k: v for k, v in jobs[0].speed.items() if k != "adapter_key"}
    report(0, len(requests), "loading the judge")
    answers: dict[tuple[str, str], tuple[str, float | None]] = {}
    replies = generate(
        folder, requests, backend=settings["backend"], dtype=settings["dtype"], logprobs=10, **speed
    )
    for count, reply in enumerate(replies, 1):
        answers[distinct[int(reply.key)]] = (reply.text, p_unsafe(reply.top, reply.pieces, guard.words))
        if count % 8 == 0 or count == len(requests):
            report(count, len(requests), "verdicts")
    threshold = settings["threshold"]
    if calibrating:
        scored = [(answers[r["prompt"], r["response"]][1], r["label"] == "unsafe") for r in labelled]
        threshold = calibrated_threshold([(p, label) for p, label in scored if p is not None])
    for job, pairs in zip(jobs, wanted, strict=True):
        judged = {
            p["id"]: guard_verdict(guard, p["id"], *answers[p["prompt"], p["response"]], threshold=threshold)
            for p in pairs
        }
        (job.output / "threshold.json").write_text(json.dumps({"threshold": threshold}) + "\n")
        write_final(job, "verdicts.jsonl", [p["id"] for p in pairs], judged, time.monotonic() - start)
