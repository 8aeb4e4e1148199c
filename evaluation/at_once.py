"""Independent pieces of work on all cores."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, TypeVar, cast

from safemerge.errors import UserError

T = TypeVar("T")


def at_once(work: Sequence[Callable[[], T]]) -> list[T]:
    """What each piece returns, in their order; copies of this process do them, a core each.

    One after the other where a copy would not be safe or not be cheap: beside other threads, which may hold a lock, with
    torch loaded, and on systems that copy no process. A copy ends with this call, however that ends; should this process be
    killed, it ends with its work, without a word.

    Raises:
        UserError, OSError, MemoryError: that of a piece.
        RuntimeError: any other error of a piece, as text; a copy died without one.
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
            plain = isinstance(error, UserError | OSError | MemoryError)  # others may not survive the way
            results.send(error if plain else RuntimeError("".join(traceback.format_exception(error))))
    finally:
        os._exit(0)
