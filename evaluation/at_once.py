"""Independent pieces of work on all cores."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, TypeVar, cast

T = TypeVar("T")


def at_once(work: Sequence[Callable[[], T]]) -> list[T]:
    """What each piece returns, in their order; copies of this process do them, a core each.

    One after the other where a copy would not be safe or not be cheap: beside other threads, which may hold a lock, with
    torch loaded, and on systems that copy no process. A copy ends with this call, however that ends; should this process be
    killed, it ends with its work, without a word.

    Raises:
        Exception: that of a piece; RuntimeError where a copy died without one.
    """
    cores = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1, len(work), 8)
    if cores < 2 or threading.active_count() > 1 or "torch" in sys.modules:
        return [piece() for piece in work]
    fork, copies, found = multiprocessing.get_context("fork"), [], [cast(Any, None)] * len(work)
    try:
        for number in range(cores):
            ours, theirs = fork.Pipe(duplex=False)
            process = fork.Process(target=_carry_out, args=(work[number::cores], theirs))
            process.start()
            copies.append((process, ours))
            theirs.close()
        for number, (_, stream) in enumerate(copies):
            try:
                results = stream.recv()
            except EOFError as error:
                raise RuntimeError("a copy of this process was killed") from error
            if isinstance(results, Exception):
                raise results
            found[number::cores] = results
    finally:
        for process, stream in copies:
            stream.close()
            process.kill()
            process.join()
    return cast(list[T], found)


def _carry_out(work: Sequence[Callable[[], Any]], results: Connection) -> None:
    """In the copy: its handlers are the system's own, not this program's, and it says nothing but what came of the work."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        try:
            results.send([piece() for piece in work])
        except Exception as error:
            results.send(_sendable(error))
    finally:
        os._exit(0)


def _sendable(error: Exception) -> Exception:
    """The error, or its text where it cannot be copied to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error
