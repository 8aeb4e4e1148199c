"""Verdicts of a judge behind a server, which costs money: part by part they are written down, and asked for once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from data.schema import Completion, Verdict, write_jsonl
from evaluation.quality import is_empty
from evaluation.server_judge import Usage
from pipeline import artifacts, partial_rows
from pipeline.artifacts import USAGE, VERDICTS
from pipeline.config import locate
from pipeline.judge_stage_settings import ServerJudge
from pipeline.progress import report
from pipeline.store import digest
from pipeline.unkeyed import Asking
from pipeline.worker import Job
from safemerge.errors import UserError

Pair = tuple[str, str]  # prompt, reply
PART = 4  # requests per connection that are sent before their verdicts are written down


def by_server(jobs: Sequence[Job], settings: ServerJudge) -> None:
    """A rubric judge behind an OpenAI-compatible server; equal pairs are asked about once.

    A request that fails for good is an invalid verdict.

    Raises:
        UserError: not one request of a file succeeded: the server is down, or its name or key is wrong.
    """
    known: dict[Pair, Verdict] = {}
    for position, job in enumerate(jobs):
        with job.finishing():
            report(position, len(jobs), job.name)
            replies = artifacts.replies(job.inputs["replies"])
            pairs = list(dict.fromkeys((r.prompt, r.completion) for r in replies))
            rows = partial_rows.finished(job.output)
            known |= _judged(rows, pairs)
            usage = Counter[str]()
            for row in rows:
                usage.update(row.get("usage") or {})
            _ask(job, settings, [pair for pair in pairs if pair not in known], known, usage)
            write_jsonl(
                job.output / VERDICTS, [replace(known[r.prompt, r.completion], id=r.id) for r in replies]
            )
            asking, spent = job.beside(Asking), Usage(**usage)
            cost = spent.cost(asking.prompt_price, asking.completion_price)
            (job.output / USAGE).write_text(json.dumps({**vars(spent), "cost": cost}) + "\n")
            partial_rows.remove(job.output)


def _judged(rows: Sequence[dict[str, Any]], pairs: Sequence[Pair]) -> dict[Pair, Verdict]:
    """The verdicts on these pairs that an interrupted run wrote down."""
    found = {row["pair"]: row["verdict"] for row in rows if "pair" in row and "verdict" in row}
    keys = {pair: digest(pair) for pair in pairs} if found else {}
    return {pair: Verdict(**found[key]) for pair, key in keys.items() if key in found}


def _ask(
    job: Job, settings: ServerJudge, new: Sequence[Pair], known: dict[Pair, Verdict], usage: Counter[str]
) -> None:
    """Ask about the pairs, part by part; adds to what is known and to what it cost."""
    asking = job.beside(Asking)
    asked = failures = 0
    reason = ""
    size = max(1, asking.parallel) * PART
    with partial_rows.appending(job.output) as stream:
        for start in range(0, len(new), size):
            part = new[start : start + size]
            found, spent = locate(settings.target)(
                [Completion(str(i), prompt, reply) for i, (prompt, reply) in enumerate(part)],
                model=settings.model,
                max_tokens=settings.max_tokens,
                base_url=settings.base_url,
                api_key_env=asking.api_key_env,
                attempts=asking.attempts,
                parallel=asking.parallel,
                timeout_s=asking.timeout_s,
            )
            sent = [its for its, (_, reply) in zip(found, part, strict=True) if not is_empty(reply)]
            reason = reason or (sent[0].raw or "" if sent else "")
            asked, failures = asked + len(sent), failures + spent.failures
            usage.update(vars(spent))
            if spent.failures < len(sent) or not sent:  # of a server that is down nothing is kept
                partial_rows.add(stream, {"usage": vars(spent)})
                for pair, verdict in zip(part, found, strict=True):
                    partial_rows.add(stream, {"pair": digest(pair), "verdict": asdict(verdict)})
            known |= dict(zip(part, found, strict=True))
    if asked and failures == asked:
        raise UserError(
            f"the judge server at {settings.base_url} answered none of {asked} requests "
            f"({reason}): check judge.*.base_url, judge.*.id and the key"
        )
