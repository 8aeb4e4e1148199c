"""The main process's side of a worker: start it, give it specs, hear its events, end it. See `pipeline.worker`."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from pipeline import endings
from pipeline.display import Update
from pipeline.processes import GRACE, end, family

ROOT = Path(__file__).resolve().parent.parent
LOOK_S = (
    2.0  # seconds between looks at what a worker has started: if it dies, that is not to be found any more
)
LEAVING_S = 30.0  # seconds that a worker gets to leave by itself once there is no more work

_running: weakref.WeakSet[WorkerProcess] = weakref.WeakSet()


@dataclass(frozen=True)
class Outcome:
    """How a spec ended. `error` is None after success; `user` says whether it is the user's to mend.

    `known`: the error says what ran out and what to do; nothing in a log says more.
    """

    error: str | None = None
    user: bool = False
    cpu_s: float = 0.0
    peak_memory_bytes: int = 0
    known: bool = False


def parsed(lines: Iterable[str]) -> Iterable[dict[str, Any]]:
    """The events among the lines; a library may have printed others between them."""
    for line in lines:
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(event, dict) and "event" in event:
            yield event


def meaning(code: int) -> str:
    """A worker's exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        name = signal.Signals(-code).name
        return f"exit code {code}, {name}" + (": often too little memory" if name == "SIGKILL" else "")
    return f"exit code {code}"


class WorkerProcess:
    """A worker in a session of its own, so that all of it can be signalled and none of it hears the terminal's Ctrl-C.

    Its stdin is open as long as this process lives and closes when it dies, however: the worker then ends itself.
    """

    def __init__(self, log: Path, arguments: Iterable[str] = ()) -> None:
        with log.open("a") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.worker", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                text=True,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
            )
        self.known: set[psutil.Process] = set()  # what it started, as far as seen
        self.looked = 0.0
        _running.add(self)
        self.events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for event in parsed(self.process.stdout):
            self.events.put(event)

    def run(self, spec: dict[str, Any], update: Update) -> Outcome:
        """Give the worker a spec and follow it to its end."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died: follow() says how
            self.process.stdin.write(json.dumps(spec) + "\n")
            self.process.stdin.flush()
        return self.follow(update)

    def follow(self, update: Update) -> Outcome:
        """Pass progress on until the worker says how the spec ended, or dies."""
        last = False
        while True:
            try:
                event = self.events.get(timeout=0 if last else 0.25)
            except queue.Empty:
                if last:
                    return Outcome(error=meaning(self.process.returncode))
                if self.process.poll() is not None:
                    self.reader.join(timeout=2)  # what it said before it died
                    last = True
                elif time.monotonic() - self.looked > LOOK_S:
                    self.known.update(family(self.process.pid))
                    self.looked = time.monotonic()
                continue
            if event["event"] == "progress":
                update(event["done"], event["total"], event["note"])
                continue
            error, user = event.get("text"), bool(event.get("user"))
            known = bool(event.get("known"))
            return Outcome(error, user, event["cpu_s"], event["peak_memory_bytes"], known)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        """No more work: let the worker leave, and end what it may have left behind, so that the GPU is empty."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.known.update(family(self.process.pid))
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=LEAVING_S)
        self.end(0 if self.process.returncode is not None else GRACE)

    def end(self, grace: float = GRACE) -> None:
        """End the worker and all that it started, within a few seconds; at once with grace=0."""
        end(self.process, self.known, grace)
        with contextlib.suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.close()
        _running.discard(self)

    def kill(self) -> None:
        """End it at once, also while `end` waits for it elsewhere."""
        end(self.process, set(self.known), 0)


def launched(spec: dict[str, Any], parallel: str, devices: int, log: Path, update: Update) -> Outcome:
    """Carry out a spec in `devices` ranks under accelerate's launcher. CPU time is that of all ranks.

    Args:
        parallel: ddp or fsdp, a config of `pipeline/accelerate/`.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
        json.dump(spec, file)
    worker = WorkerProcess(log, ["--launch", parallel, str(devices), file.name])
    try:
        outcome = worker.follow(update)
        if outcome.error is None:
            # All jobs are finished when the first rank says so; the launcher goes when the others have ended, too.
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(timeout=LEAVING_S)
        worker.end(0)
    except BaseException:
        worker.end()
        raise
    finally:
        Path(file.name).unlink(missing_ok=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Outcome(outcome.error, outcome.user, spent, outcome.peak_memory_bytes, outcome.known)


def _end_all() -> None:
    for worker in list(_running):
        worker.kill()


endings.at_once.append(_end_all)
