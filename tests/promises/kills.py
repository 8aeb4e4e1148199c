"""Kill anywhere: one run, killed again and again on its way through all stages, must end as an undisturbed one does.

Each attempt is the same command. It is killed at a random moment of the place whose turn it is: so many seconds after the
first change that a stage makes to the store, drawn between none and what the stage takes when nobody disturbs it.
"""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import psutil

from pipeline.processes import alive
from tests.promises.runs import Place, differing, left, outliving, unsound

POLL_S = 0.02
#: Places in the order in which a run comes to them: before any stage, stages by their folder in the store, and the report.
PLACES = ("start", "prepare", "finetune", "prepare", "finetune", "similarity", "merge", "generate", "parity", "judge",
          "generate", "judge", "likelihood", "check", "report")  # fmt: skip
TARGETS = ("main", "worker", "engine")
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
LATE_S = 300.0  # an attempt that takes longer hangs


@dataclass
class Kill:
    """One attempt: where and what was killed, how it ended, and what was wrong then."""

    place: str
    target: str
    signal: str
    stage: str  # which was at work, by the last change to the store
    delay_s: float
    code: int  # of the main process
    gone_s: float  # from the end of the main process until all was gone
    problems: list[str] = field(default_factory=list)


class Watch:
    """What a run changes on the disk, and when; times are seconds since the attempt began."""

    def __init__(self, place: Place) -> None:
        self.place, self.start = place, time.monotonic()
        self.seen = place.changes()
        self.first: dict[str, float] = {}
        self.last: dict[str, float] = {}
        self.stage = "start"

    def look(self) -> None:
        """Note which stages have changed something since the last look."""
        now = self.place.changes()
        changed = [path for path, size in now.items() if self.seen.get(path) != size]
        self.seen = now
        for path in changed:
            parts = path.split("/")
            if parts[0] == "store" and len(parts) > 2:
                self.note(parts[1])
            elif "report" in parts:
                self.note("report")

    def note(self, stage: str) -> None:
        at = time.monotonic() - self.start
        self.first.setdefault(stage, at)
        self.last[stage] = at
        self.stage = stage

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start


def undisturbed(place: Place, log: str = "out.txt") -> dict[str, float]:
    """Run to the end; how long (s) each place was worked at, in one piece or in several.

    Raises:
        RuntimeError: it failed.
    """
    process, watch = place.start(log), Watch(place)
    spent: dict[str, float] = {}
    before = 0.0
    while process.poll() is None:
        watch.look()
        now = watch.seconds
        spent[watch.stage] = spent.get(watch.stage, 0.0) + now - before
        before = now
        time.sleep(POLL_S)
    if process.returncode != 0:
        raise RuntimeError(f"an undisturbed run ended with {process.returncode}: {place.said(log)[-2000:]}")
    return spent


def chosen(main: subprocess.Popen[str], target: str) -> psutil.Process | None:
    """The process to kill; None if there is none of that kind now."""
    try:
        children = psutil.Process(main.pid).children()
        workers = [p for p in children if "pipeline.worker" in " ".join(p.cmdline())]
        engines = [
            p
            for worker in workers
            for p in worker.children(recursive=True)
            if alive(p) and "resource_tracker" not in " ".join(p.cmdline())
        ]
    except psutil.Error:
        return None
    if target == "main":
        return psutil.Process(main.pid)
    # Of several workers the one started last is at work; the other is kept for a later stage.
    found = workers if target == "worker" else engines
    return max(found, key=lambda p: p.create_time()) if found else None


def attempt(
    place: Place, where: str, later: set[str], spent: dict[str, float], draw: random.Random
) -> Kill | None:
    """Start the run, kill it in the place given, and look at what is left; None if it came to its end before that.

    later: stages that come after that place only; if one of them is at work, the place was passed by an earlier attempt.
    """
    target = draw.choices(TARGETS, weights=(5, 3, 3))[0]
    number = draw.choice(SIGNALS)
    delay = draw.uniform(0, max(spent.get(where, 0.0), 0.5))
    said = len(place.said())
    main, watch = place.start(), Watch(place)
    reached = 0.0 if where == "start" else None
    while main.poll() is None and watch.seconds < LATE_S:
        watch.look()
        if reached is None and ({where} | later) & watch.first.keys():
            reached = watch.seconds
        if reached is not None and watch.seconds >= reached + delay:
            break
        time.sleep(POLL_S)
    victim = None if main.poll() is not None else chosen(main, target) or chosen(main, target := "main")
    if victim is None:  # it has ended, or does so now
        return None if main.wait() == 0 else _ended(place, main, watch, said)
    members = place.members()
    try:
        victim.send_signal(number)
    except psutil.NoSuchProcess:
        return None
    kill = Kill(where, target, number.name, watch.stage, round(delay, 2), 0, 0.0)
    try:
        kill.code = main.wait(timeout=LATE_S)
    except subprocess.TimeoutExpired:
        kill.problems.append(
            f"the main process still runs {LATE_S:.0f} s after {number.name} to its {target}"
        )
        main.kill()
        kill.code = main.wait()
    kill.problems += ending(kill, place.said()[said:])
    outlived, kill.gone_s = outliving(place, members)
    kill.problems += [*outlived, *unsound(place)]
    return kill


def _ended(place: Place, main: subprocess.Popen[str], watch: Watch, said: int) -> Kill:
    """An attempt that nobody disturbed, and that ended badly."""
    words = place.said()[said:].strip().splitlines()[-1:]
    return Kill("none", "none", "none", watch.stage, 0.0, main.returncode, 0.0, [f"ended by itself: {words}"])


def ending(kill: Kill, said: str) -> list[str]:
    """What is wrong with how the main process ended and with what it said."""
    if kill.target != "main":
        expected = {0, 1}  # 0: a worker that is idle is replaced
    elif kill.signal == "SIGKILL":
        expected = {-signal.SIGKILL}
    else:
        expected = {128 + signal.SIGTERM, -signal.SIGTERM, 0}  # before it is ready to handle it; as it leaves
    found = [] if kill.code in expected else [f"exit code {kill.code} after {kill.signal} to {kill.target}"]
    if "Traceback" in said:
        found.append("a traceback was shown")
    if kill.target != "main" and kill.code == 1 and "rerun the same command to resume" not in said:
        found.append("the error does not say how to go on")
    return found


@dataclass
class Life:
    """One run with all kills that it went through."""

    name: str
    kind: str
    kills: list[Kill] = field(default_factory=list)
    finished: bool = False
    problems: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        return asdict(self)


def live(
    life: Life,
    place: Place,
    places: Sequence[str],
    spent: dict[str, float],
    undisturbed_results: dict[str, str],
    draw: random.Random,
    save: Callable[[], None],
) -> None:
    """Kill a run once in each of the places, let it come to its end, and compare. Goes on with a life that was begun."""
    for number in range(len(life.kills), len(places)):
        later = set(places[number + 1 :]) - set(places[: number + 1])
        kill = attempt(place, places[number], later, spent, draw)
        if kill is None:  # it came to its end
            break
        life.kills.append(kill)
        save()
    code = place.start().wait(timeout=4 * LATE_S)
    if code != 0:
        life.problems.append(f"the last attempt ended with {code}: {place.said()[-300:]}")
    life.problems += [*outliving(place)[0], *unsound(place), *left(place)]
    life.differing = differing(place.results(), undisturbed_results)
    life.finished = True
    save()
