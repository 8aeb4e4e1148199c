"""Several processes run one command on one store at once: each artifact is made once, and a killed one's work goes on."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import psutil

from tests.promises.kills import LATE_S
from tests.promises.runs import Place, differing, left, outliving, unsound

COUNTS = re.compile(r"(\d+) artifacts made, (\d+) found in the store")


@dataclass
class Sharing:
    """What came of it. `made`: artifacts that each of those that lived says it made; `before`: made when one was killed."""

    processes: int
    killed: bool
    artifacts: int = 0
    made: list[int] = field(default_factory=list)
    before: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        return asdict(self)


def at_work(place: Place, stage: str) -> psutil.Process | None:
    """The worker that makes something of that stage, by the log that it writes to; waits for one."""
    deadline = time.monotonic() + LATE_S
    while time.monotonic() < deadline:
        for process in place.members():
            with contextlib.suppress(OSError, psutil.Error):
                log = os.readlink(f"/proc/{process.pid}/fd/1")
                if f"/{stage}/" in log and "pipeline.worker" in " ".join(process.cmdline()):
                    return process
        time.sleep(0.05)
    return None


def shared(
    place: Place, undisturbed_results: dict[str, str], *, processes: int = 4, kill_in: str | None = None
) -> Sharing:
    """Start them together, and with `kill_in` kill the one that makes the first artifact of that stage. Linux only."""
    result = Sharing(processes, kill_in is not None)
    start = time.monotonic()
    mains = [place.start(f"out{n}.txt") for n in range(processes)]
    alive = list(range(processes))
    if kill_in is not None and (worker := at_work(place, kill_in)) is not None:
        victim = next(n for n, main in enumerate(mains) if main.pid == worker.ppid())
        result.before = len(place.artifacts())
        mains[victim].send_signal(signal.SIGKILL)
        mains[victim].wait()
        alive.remove(victim)
    for n in alive:
        code = mains[n].wait(timeout=8 * LATE_S)
        said = place.said(f"out{n}.txt")
        if code != 0:
            result.problems.append(f"process {n} ended with {code}: {said[-300:]}")
        if found := COUNTS.search(said):
            result.made.append(int(found.group(1)))
    result.seconds = round(time.monotonic() - start, 1)
    result.artifacts = len(place.artifacts())
    # The killed one may have finished one more than was counted before it died: it is then taken over, finished.
    made = sum(result.made) + result.before
    if made != result.artifacts if kill_in is None else not result.artifacts - 2 <= made <= result.artifacts:
        result.problems.append(f"{made} artifacts were made where the store has {result.artifacts}")
    result.problems += [*outliving(place)[0], *unsound(place), *left(place)]
    result.differing = differing(place.results(), undisturbed_results)
    return result
