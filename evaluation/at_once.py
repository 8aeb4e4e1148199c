"""Independent pieces of work on all cores."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
_work: Sequence[Callable[[], Any]] = ()


def at_once(work: Sequence[Callable[[], T]]) -> list[T]:
    """What each piece returns, in their order; copies of this process do them, a core each.

    One after the other where a copy would not be safe or not be cheap: beside other threads, which may hold a lock, with
    torch loaded, and on systems that copy no process.
    """
    global _work
    cores = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1, len(work), 8)
    if cores < 2 or threading.active_count() > 1 or "torch" in sys.modules:
        return [piece() for piece in work]
    _work = work
    try:
        with multiprocessing.get_context("fork").Pool(cores) as pool:
            return pool.map(_piece, range(len(work)), chunksize=1)
    finally:
        _work = ()


def _piece(number: int) -> Any:
    return _work[number]()
