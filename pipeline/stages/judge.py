"""Verdicts on completions: safe, unsafe or invalid. Reads files, so it can be rerun with another judge at any time."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from data.chat import chat_ids, in_parts, prompt_ids
from data.schema import Completion, Verdict, write_jsonl
from evaluation.engine import Request, generate
from evaluation.guard_format import GuardFormat, Question, p_unsafe, questions
from evaluation.judges import calibrated_threshold, guard_verdict, worst
from evaluation.reading import check_reads
from pipeline import artifacts, partial_rows
from pipeline.artifacts import HEAD, THRESHOLD, VERDICTS, model_folder
from pipeline.config import locate
from pipeline.judge_stage_settings import (
    GuardJudge,
    GuardThreshold,
    PhrasesJudge,
    ProbeJudge,
    ServerJudge,
    of_judge,
)
from pipeline.progress import report
from pipeline.stages.server_judging import by_server
from pipeline.store import digest
from pipeline.unkeyed import Engine
from pipeline.worker import Job, finish
from safemerge.errors import UserError

Pair = tuple[str, str]  # prompt, reply
Answers = list[
    tuple[str, float | None]
]  # what a guard says to each question about a reply, and its P(unsafe)


def guard_ids(
    tokenizer: Any, guard: GuardFormat, system: str | None, prompt: str, response: str
) -> list[list[int]]:
    """Token ids that the guard reads, by the same chat-template path as everything else; one list for each question.

    system: for a guard that is asked in one user turn; whole turns are taken as they are.

    Raises:
        UserError: what it would read lacks the prompt, the reply or the policy.
    """
    return [
        _question_ids(tokenizer, question, system, prompt, response)
        for question in questions(guard, prompt, response)
    ]


def _question_ids(
    tokenizer: Any, question: Question, system: str | None, prompt: str, response: str
) -> list[int]:
    asked = question.asked
    if isinstance(asked, str):
        ids = prompt_ids(tokenizer, asked, system=system)
        check_reads(tokenizer, ids, prompt, response)
        return ids
    ids = chat_ids(tokenizer, asked, generation=question.opening, template=question.template)
    for value in question.template.values():  # a template that ignores it would ask about nothing
        check_reads(tokenizer, ids, prompt, value, what="policy")
    try:
        check_reads(tokenizer, ids, prompt, response)
    except UserError:  # some templates want content as a list of parts, as Llama-Guard-3-1B's does
        parts = [in_parts(turn) for turn in asked]
        ids = chat_ids(tokenizer, parts, generation=question.opening, template=question.template)
        if "'type': 'text'" in tokenizer.decode(ids, clean_up_tokenization_spaces=False):
            raise  # others print the list as it is
        check_reads(tokenizer, ids, prompt, response)
    return ids


def run(jobs: list[Job]) -> None:
    """Judge all jobs, which share one judge; equal (prompt, response) pairs are judged once. A threshold comes alone."""
    settings = of_judge(jobs[0].settings)
    match settings:
        case PhrasesJudge():
            by_phrases(jobs, settings)
        case ProbeJudge():
            by_probe(jobs)
        case ServerJudge():
            by_server(jobs, settings)
        case GuardThreshold():
            tune(jobs[0], settings)
        case GuardJudge():
            by_guard(jobs, settings)


def by_phrases(jobs: list[Job], settings: PhrasesJudge) -> None:
    """Refusal phrases: no model."""
    for job in jobs:
        with job.finishing():
            replies = artifacts.replies(job.inputs["replies"])
            write_jsonl(job.output / VERDICTS, locate(settings.target)(replies))


def by_probe(jobs: list[Job]) -> None:
    """A linear head on a frozen model's hidden states; all distinct pairs of all jobs in one pass."""
    from evaluation.probe import Head, Reader, verdict

    start = time.monotonic()
    head = Head.load(jobs[0].inputs["head"] / HEAD)
    dtype = json.loads((jobs[0].inputs["head"] / "manifest.json").read_text())["settings"]["dtype"]
    report(0, 1, "loading the judge")
    reader = Reader(model_folder(jobs[0].inputs["model"]), head.layers, dtype)
    wanted = [artifacts.replies(job.inputs["replies"]) for job in jobs]
    distinct = sorted({(r.prompt, r.completion) for replies in wanted for r in replies})
    features = reader.features(
        distinct, head.reply_tokens, lambda done, total: report(done, total, "verdicts")
    )
    jobs[0].count_tokens(reader.tokens)
    found = dict(zip(distinct, head.p_unsafe(features).tolist(), strict=True))
    for job, replies in zip(jobs, wanted, strict=True):
        write_jsonl(
            job.output / VERDICTS,
            [verdict(r.id, r.completion, found[r.prompt, r.completion], head.threshold) for r in replies],
        )
        finish(job, time.monotonic() - start)


def by_guard(jobs: list[Job], settings: GuardJudge) -> None:
    """A guard model through the engine: the verdict is the probability of its first token against the threshold."""
    start = time.monotonic()
    guard: GuardFormat = locate(settings.target)()
    threshold = settings.threshold
    if threshold is None:
        threshold = artifacts.threshold(jobs[0].inputs["threshold"])
    wanted = [artifacts.replies(job.inputs["replies"]) for job in jobs]
    pairs = [{(r.prompt, r.completion) for r in replies} for replies in wanted]
    said = answers_of(jobs, settings, pairs)
    for job, replies in zip(jobs, wanted, strict=True):
        write_jsonl(
            job.output / VERDICTS,
            [guards_verdict(guard, r, said[r.prompt, r.completion], threshold) for r in replies],
        )
        partial_rows.remove(job.output)
        finish(job, time.monotonic() - start)


def guards_verdict(
    guard: GuardFormat, reply: Completion, answers: Answers, threshold: float | None
) -> Verdict:
    """The verdict in a guard's answers to all that it is asked about a reply."""
    asked = questions(guard, reply.prompt, reply.completion)
    return worst(
        [
            guard_verdict(guard, reply, text, p, threshold, question.about)
            for question, (text, p) in zip(asked, answers, strict=True)
        ]
    )


def tune(job: Job, settings: GuardThreshold) -> None:
    """The threshold that tells the tuning pairs apart best; pairs to which the guard gives no probability are left out.

    Raises:
        UserError: of the unsafe pairs, or of the safe ones, it gives none to any: it does not answer as a guard does.
    """
    with job.finishing():
        rows = artifacts.labelled_pairs(job.inputs["tuning"])
        said = answers_of([job], settings, [{(row.prompt, row.response) for row in rows}])
        scored = [([p for _, p in said[row.prompt, row.response]], row.label == "unsafe") for row in rows]
        known = [([p for p in its if p is not None], label) for its, label in scored if None not in its]
        if {label for _, label in known} != {label for _, label in scored}:
            raise UserError(
                f"the guard gave {len(known)} of {len(scored)} tuning pairs a probability, and none to all pairs of one "
                "label: it does not answer in the format of its `_target_`; train it longer (train.guard), take another "
                "judge, or set judge.*.threshold to a number"
            )
        threshold = calibrated_threshold([(max(its), label) for its, label in known])
        (job.output / THRESHOLD).write_text(json.dumps({"threshold": threshold}) + "\n")
        partial_rows.remove(job.output)


def answers_of(
    jobs: Sequence[Job], settings: GuardJudge | GuardThreshold, wanted: Sequence[set[Pair]]
) -> dict[Pair, Answers]:
    """A guard's answers to the (prompt, reply) pairs that each job wants; equal ones are asked once.

    Each answer is written down at once, for every job that wants it; those of an interrupted run are not asked again.
    """
    found: dict[Pair, Answers] = {}
    for job, pairs in zip(jobs, wanted, strict=True):
        found |= _answered(job, pairs)
    distinct = sorted(set().union(*wanted))
    missing = [pair for pair in distinct if pair not in found]
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(partial_rows.appending(job.output)) for job in jobs]
        report(len(found), len(distinct), "loading the judge")
        for pair, answers in _ask(jobs[0], settings, missing):
            found[pair] = answers
            for stream, pairs in zip(streams, wanted, strict=True):
                if pair in pairs:
                    partial_rows.add(stream, {"pair": digest(pair), "answers": answers})
            if len(found) % 8 == 0 or len(found) == len(distinct):
                report(len(found), len(distinct), "verdicts")
    return found


def _answered(job: Job, pairs: set[Pair]) -> dict[Pair, Answers]:
    """The answers to these pairs that an interrupted run already wrote down."""
    rows = {row.get("pair"): row.get("answers") for row in partial_rows.finished(job.output)}
    known = {pair: rows.get(digest(pair)) for pair in pairs} if rows else {}
    return {pair: [(text, p) for text, p in answers] for pair, answers in known.items() if answers}


def _ask(
    job: Job, settings: GuardJudge | GuardThreshold, pairs: Sequence[Pair]
) -> Iterator[tuple[Pair, Answers]]:
    """The guard's answers, as they come."""
    if not pairs:
        return
    from transformers import AutoTokenizer

    guard: GuardFormat = locate(settings.target)()
    folder = model_folder(job.inputs["model"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    requests = [
        Request(f"{i}/{n}", ids, settings.max_tokens)
        for i, (prompt, response) in enumerate(pairs)
        for n, ids in enumerate(guard_ids(tokenizer, guard, settings.system_prompt, prompt, response))
    ]
    engine = job.beside(Engine)
    answered = generate(
        folder,
        requests,
        backend=settings.backend,
        dtype=settings.dtype,
        logprobs=10,
        max_num_seqs=engine.max_num_seqs,
        max_loras=engine.max_loras,
        gpu_memory_utilization=engine.gpu_memory_utilization,
        tensor_parallel_size=engine.tensor_parallel_size,
        data_parallel_size=engine.data_parallel_size,
        servers=engine.servers,
    )
    asked = Counter(request.key.partition("/")[0] for request in requests)
    found: dict[str, dict[int, tuple[str, float | None]]] = {pair: {} for pair in asked}
    for reply in answered:
        job.count_tokens(len(reply.prompt_ids) + reply.tokens)
        pair, _, question = reply.key.partition("/")
        its = found[pair]
        its[int(question)] = (reply.text, p_unsafe(reply.top, reply.pieces, guard.words))
        if len(its) == asked[pair]:  # in the order of the questions
            yield pairs[int(pair)], [its[number] for number in sorted(its)]
