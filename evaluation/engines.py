"""Several engines at once, each in a process and on GPUs of its own: together they answer like one."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

from evaluation import engine
from evaluation.engine import Reply, Request
from safemerge.errors import UserError

LEAVING_S = 30.0  # seconds that an engine gets to leave by itself once it has answered everything


class EngineDiedError(RuntimeError):
    """An engine's process is gone before it had answered everything."""


def shares(requests: Sequence[Request], engines: int) -> list[list[Request]]:
    """The requests in at most `engines` parts of about equal work; an adapter is in one part, but where a cut falls in it.

    Work is counted in tokens that may be read or written.
    """
    ordered = sorted(requests, key=lambda r: (r.adapter_key, r.key))
    total = sum(len(r.prompt_ids) + r.max_tokens for r in ordered)
    parts: list[list[Request]] = [[] for _ in range(engines)]
    before = 0
    for request in ordered:
        work = len(request.prompt_ids) + request.max_tokens
        parts[min(engines - 1, int((before + work / 2) * engines / total))].append(request)
        before += work
    return [part for part in parts if part]


def devices(engines: int, each: int) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES of every engine, `each` of those visible here; None where none is to be seen.

    Raises:
        UserError: fewer are visible than the engines need.
    """
    here = os.environ.get("CUDA_VISIBLE_DEVICES")
    if here is not None and here.strip() in ("", "-1", "NoDevFiles"):
        return [None] * engines
    visible = here.split(",") if here else [str(i) for i in range(engines * each)]
    if len(visible) < engines * each:
        raise UserError(
            f"generation.data_parallel_size={engines} engines on {each} GPUs each need {engines * each}, and "
            f"CUDA_VISIBLE_DEVICES={here} shows {len(visible)}"
        )
    return [",".join(visible[i * each : (i + 1) * each]) for i in range(engines)]


def _answer(
    model: str, requests: list[Request], how: dict[str, Any], environment: dict[str, str], replies: Connection
) -> None:
    """What an engine's process does: send every reply, and at the end None or what went wrong."""
    os.environ.update(environment)  # before anything imports torch
    try:
        for reply in engine.generate(model, requests, **how):
            replies.send(reply)
        replies.send(None)
    except UserError as error:
        replies.send(error)
    except BaseException as error:
        traceback.print_exc()
        replies.send(RuntimeError(f"an engine failed: {traceback.format_exception_only(error)[-1].strip()}"))


def generate(
    model: str, requests: list[Request], *, data_parallel_size: int, tensor_parallel_size: int, **how: Any
) -> Iterator[Reply]:
    """Answer all requests, in whatever order they finish; `how` as for one engine.

    Raises:
        UserError: as one engine does, or too few GPUs are visible.
        EngineDiedError: an engine died; the others are ended.
        RuntimeError: one failed; likewise.
    """
    parts = shares(requests, data_parallel_size)
    how["tensor_parallel_size"] = tensor_parallel_size
    threads = str(max(1, (os.cpu_count() or 1) // len(parts)))
    context = get_context("spawn")
    processes, open_ends = [], []
    try:
        for part, visible in zip(parts, devices(len(parts), tensor_parallel_size), strict=True):
            ours, theirs = context.Pipe(duplex=False)
            environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
            environment["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", threads)
            processes.append(context.Process(target=_answer, args=(model, part, how, environment, theirs)))
            processes[-1].start()
            theirs.close()  # so that ours ends when that process does
            open_ends.append(ours)
        while open_ends:
            for end in wait(open_ends):
                assert isinstance(end, Connection)
                try:
                    said = end.recv()
                except EOFError as error:
                    raise EngineDiedError("an engine died: often too little memory") from error
                if isinstance(said, Exception):
                    raise said
                if said is None:
                    open_ends.remove(end)
                    continue
                yield said
        for process in processes:
            process.join(LEAVING_S)
    finally:
        sys.stderr.flush()
        for process in processes:
            with contextlib.suppress(OSError):
                process.kill()
            process.join()
