"""Ending a process with all that it started: launcher ranks, engine processes, also those in sessions of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable

import psutil

GRACE = 3.0  # seconds between SIGTERM and SIGKILL


def family(pid: int) -> list[psutil.Process]:
    """Everything that the process `pid` started and that still runs: its descendants, and the rest of its session.

    `pid` itself is not among them. It may be gone already: its session is then all that is left to go by.
    """
    found: dict[int, psutil.Process] = {}
    with contextlib.suppress(psutil.Error):
        found = {p.pid: p for p in psutil.Process(pid).children(recursive=True)}
    for other in psutil.pids():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getsid(other) == pid and other not in (pid, os.getpid()):
                found.setdefault(other, psutil.Process(other))
    return list(found.values())


def alive(process: psutil.Process) -> bool:
    """Whether it runs; a zombie does not, even if nobody has asked for its exit code."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _signal(processes: Iterable[psutil.Process], number: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            process.send_signal(number)


def end(process: subprocess.Popen[str], known: set[psutil.Process], grace: float = GRACE) -> None:
    """End a worker and its family: SIGTERM, up to `grace` seconds for leaving by themselves, then SIGKILL.

    The worker leads a session of its own. Returns when all are gone, a moment after the SIGKILL at the latest.

    Args:
        known: members of the family seen earlier, added to here: once the worker is gone, its children have another parent.
    """
    known.update(family(process.pid))
    if grace > 0 and (process.poll() is None or any(alive(p) for p in known)):
        with contextlib.suppress(OSError):
            process.terminate()
        _signal(known, signal.SIGTERM)
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline and (process.poll() is None or any(alive(p) for p in known)):
            time.sleep(0.02)
    known.update(family(process.pid))
    with contextlib.suppress(OSError):
        process.kill()
    _signal(known, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=3)


def end_own_family() -> None:
    """SIGKILL to all that this process started, and to itself. Called when its main process is gone."""
    # A look at the processes is hundreds of system calls, and after each the interpreter has to be won back from a busy
    # main thread, which may take 5 ms by default. Should it never be won back, the alarm ends at least this process.
    sys.setswitchinterval(1e-6)
    signal.alarm(int(2 * GRACE))
    try:
        _signal(family(os.getpid()), signal.SIGKILL)
        _signal(family(os.getpid()), signal.SIGKILL)  # one that was just being started
    finally:
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
