"""Several processes run the same command on one store at once: each artifact is made once, and a killed one's work goes on."""

from __future__ import annotations

import re
import signal
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.promises.kills import LATE_S, Watch
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


def shared(
    place: Place, undisturbed_results: dict[str, str], *, processes: int = 4, kill_in: str | None = None
) -> Sharing:
    """Start them together, and with `kill_in` kill the one that makes the first artifact of that stage."""
    result = Sharing(processes, kill_in is not None)
    start = time.monotonic()
    mains = [place.start(f"out{n}.txt") for n in range(processes)]
    watch = Watch(place)
    while kill_in is not None and kill_in not in watch.first and watch.seconds < LATE_S:
        watch.look()
        time.sleep(0.02)
    alive = list(range(processes))
    if kill_in is not None:
        # The one with a worker at that stage holds the lock.
        worker = next(p for p in place.members() if "pipeline.worker" in " ".join(p.cmdline()))
        victim = next(n for n, main in enumerate(mains) if main.pid == worker.ppid())
        result.before = len(place.artifacts())
        mains[victim].send_signal(signal.SIGKILL)
        mains[victim].wait()
        alive.remove(victim)
    for n in alive:
        code = mains[n].wait(timeout=2 * LATE_S)
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
