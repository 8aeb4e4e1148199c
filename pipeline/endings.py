"""SIGINT, SIGTERM and SIGHUP to the main process: it leaves in order, with its workers, within `LIMIT` seconds."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

LIMIT = 8.0  # seconds from the signal to the end of the process, whatever hangs (an upload, say)
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}

MAIN = "SAFEMERGE_MAIN_PID"  # the process that was started first

#: Called at a second signal and at the limit: ends all workers at once.
at_once: list[Callable[[], None]] = []


class Ended(KeyboardInterrupt):
    """Raised in the main thread by the signal `number`. A KeyboardInterrupt, so that no library takes it for an error."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def number_of(error: KeyboardInterrupt) -> int:
    """The signal behind the exception; SIGINT for one that Python raised by itself."""
    return error.number if isinstance(error, Ended) else signal.SIGINT


def sentence(number: int) -> str:
    """What the user is told, in one line."""
    word = WORDS.get(signal.Signals(number), "ended")
    return f"{word}; finished work is kept; rerun the same command to resume"


class _Handler:
    """The first signal raises `Ended`; further ones end the workers at once and let the clean-up go on."""

    def __init__(self) -> None:
        self.timer: threading.Timer | None = None
        self.number: int | None = None  # of the first signal

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.timer is not None:
            _end_all()
            return
        self.number, self.timer = number, threading.Timer(LIMIT, self.give_up, (number,))
        self.timer.daemon = True
        self.timer.start()
        raise Ended(number)

    def give_up(self, number: int) -> None:
        _end_all()
        sys.stderr.write(sentence(number) + "\n")
        sys.stderr.flush()
        os._exit(128 + number)

    def cancel(self) -> None:
        if self.timer is not None:
            self.timer.cancel()


def follow_main(seconds: float = 1.0) -> None:
    """In a process that the main one started for a job of a multirun (joblib): leave, as after SIGTERM, when that is gone.

    In the main process itself, and in jobs that Slurm started, nothing happens.
    """
    parent = os.getppid()
    if os.environ.setdefault(MAIN, str(os.getpid())) != str(parent):
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _end_all() -> None:
    for function in list(at_once):
        function()


@contextmanager
def handled() -> Iterator[None]:
    """Signals raise `Ended` inside the block, and an error after one becomes that ending.

    Nested blocks, and those outside the main thread, change nothing.
    SIGINT and SIGTERM are handled even if a parent shell has ignored them, as it does for background jobs. SIGHUP stays
    ignored where it was: that is what `nohup` asks for. A handler that somebody else installed (submitit's, which puts
    preempted jobs back into Slurm's queue) stays, too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler, before = _Handler(), {}
    for number in WORDS:
        current = signal.getsignal(number)
        ours = current in (signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler)
        if ours and not (number == signal.SIGHUP and current == signal.SIG_IGN):
            before[number] = signal.signal(number, handler)
    try:
        yield
    except Exception as error:
        if handler.number is not None:  # what was interrupted made an error of it, or broke in the middle
            raise Ended(handler.number) from error
        raise
    finally:
        handler.cancel()
        for number, previous in before.items():
            signal.signal(number, previous)
