"""How a worker tells the main process what happens: JSON lines over a pipe. Silent when there is none."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

#: Characters of a text, up to six bytes each: a line stays below PIPE_BUF (4096), so those of several ranks cannot mix.
LONGEST = 600

_pipe: int | None = None
_rank = 0


def connect(pipe: int | None, rank: int = 0) -> None:
    """From now on events go to this file descriptor (None: nowhere), as those of this rank."""
    global _pipe, _rank
    _pipe, _rank = pipe, rank


def leads() -> bool:
    """Whether this process speaks for its stage: always, but for the further ranks of a launcher."""
    return _rank == 0


def send(event: str, **content: Any) -> None:
    """One event for the main process. If that is gone, the worker is about to be ended: no error here."""
    if _pipe is not None:
        line = json.dumps({"event": event, **content}) + "\n"
        with contextlib.suppress(OSError):
            os.write(_pipe, line.encode())


def report(done: float, total: float, note: str = "") -> None:
    """Work done so far, out of `total` (any unit), with a short note such as the current loss."""
    if leads():
        send("progress", done=done, total=total, note=note)
