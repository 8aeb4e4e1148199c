"""Stages in a process of their own, so that the main one stays light and the next stage can find the GPU empty.

    python -m pipeline.worker                     specs as JSON lines on stdin, until it closes
    python -m pipeline.worker --launch PARALLEL N SPEC    accelerate's launcher with N ranks, by ddp or fsdp
    python -m pipeline.worker SPEC                one of its ranks

SPEC (a file, or a line): {"stage", "log", "jobs": [{"name", "settings", "unkeyed", "inputs": {role: folder}, "output",
"adapter_key"}]}.
Jobs are finished one by one; each gets a `done.json`, after which the main process moves it to its final place. What
happens is told on stdout as JSON lines (`pipeline.progress`): progress, and at the end `finished` or `error`.

stdin is also the lifeline. The main process holds its other end and never closes it during a job: if it closes, then that
process is gone, and the worker ends itself with all that it started. (Linux's PR_SET_PDEATHSIG would be no help: it ends
the worker alone, before that could end its children, and already when the thread that started it is gone.)
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import queue
import signal
import sys
import threading
import traceback
import warnings
from pathlib import Path
from typing import Any

from pipeline import progress
from pipeline.exhausted import explained
from pipeline.job import Job, begin, finish
from pipeline.processes import end_own_family
from pipeline.unkeyed import read
from safemerge.errors import UserError
from safemerge.screening import hidden

__all__ = ["Job", "finish"]  # what stages import from here

TORCH_SEED = 67280421310721  # torch's own default, the state in which a fresh process finds its generator


class Specs:
    """Specs as they come in. A daemon thread reads them and notices the end of the stream, whatever the stage does."""

    def __init__(self, stream: int) -> None:
        self._queue: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._unfinished = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def _read(self, stream: int) -> None:
        with os.fdopen(stream) as lines:
            for line in lines:
                with self._lock:  # counted here: the stream may end before the main thread has looked
                    self._unfinished += 1
                self._queue.put(json.loads(line))
        with self._lock:
            if self._unfinished:
                end_own_family()
        self._queue.put(None)

    def next(self) -> dict[str, Any] | None:
        """The next spec; None when there will be no more."""
        return self._queue.get()

    def done(self) -> None:
        """The last one is carried out: from here on the stream may end."""
        with self._lock:
            self._unfinished -= 1


def watch(stream: int) -> None:
    """End this process and all that it started when the stream ends. For processes that get no specs on it."""

    def wait() -> None:
        while os.read(stream, 4096):
            pass
        end_own_family()

    threading.Thread(target=wait, daemon=True).start()


def to_log(path: str) -> None:
    """stdout and stderr, also those of libraries in C, go to the end of this file."""
    sys.stdout.flush()
    sys.stderr.flush()
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def read_jobs(spec: dict[str, Any]) -> list[Job]:
    """The jobs of a spec, with paths."""
    return [
        Job(
            j["name"],
            j["settings"],
            read(j["unkeyed"]),
            {role: Path(folder) for role, folder in j["inputs"].items()},
            Path(j["output"]),
            j["adapter_key"],
        )
        for j in spec["jobs"]
    ]


def carry_out(spec: dict[str, Any]) -> dict[str, Any]:
    """Run the spec's stage; the event that tells how it ended. A traceback goes to the log."""
    jobs = read_jobs(spec)
    meter = begin(len(jobs))
    try:
        importlib.import_module(f"pipeline.stages.{spec['stage']}").run(jobs)
    except UserError as error:
        return _failed(str(error), user=True) | meter.spent()
    except BaseException as error:  # SystemExit, too: nothing but the end of run() is success
        with contextlib.suppress(OSError):  # the log's disk may be what is full
            sys.stderr.write(hidden(traceback.format_exc()))
        known = explained(error, spec["stage"])
        text = known or traceback.format_exception_only(error)[-1].strip()
        return _failed(text, known=known is not None) | meter.spent()
    return {"event": "finished", **meter.spent()}


def _failed(text: str, *, user: bool = False, known: bool = False) -> dict[str, Any]:
    """The event of a failure; see `pipeline.worker_process.Outcome`."""
    return {"event": "error", "user": user, "known": known, "text": hidden(text)[: progress.LONGEST]}


def as_new(environment: dict[str, str]) -> None:
    """Undo what a stage leaves behind in the process, so that the next one works as in a fresh one."""
    os.environ.clear()
    os.environ.update(environment)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(TORCH_SEED)
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc only: give freed memory back
        ctypes.CDLL(None).malloc_trim(0)


def serve(specs: Specs) -> int:
    """Carry out specs until there are no more (0) or one fails (1): what a failure leaves behind is not built on."""
    environment = dict(os.environ)
    while (spec := specs.next()) is not None:
        to_log(spec["log"])
        event = carry_out(spec)
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        specs.done()
        progress.send(**event)
        if event["event"] == "error":
            return 1
        as_new(environment)
    return 0


def launch(parallel: str, processes: int, spec: str) -> int:
    """accelerate's launcher, in this process; stdin and stdout go on to the ranks."""
    from accelerate.commands import launch as launcher

    watch(os.dup(0))
    # Also where there is one GPU or none: without a config accelerate starts a single process there, and says nothing.
    how = ["--config_file", str(Path(__file__).parent / "accelerate" / f"{parallel}.yaml")]
    ranks = [*how, "--num_processes", str(processes), "-m", "pipeline.worker", spec]
    launcher.launch_command(launcher.launch_command_parser().parse_args(ranks))
    return 0


def main(arguments: list[str]) -> int:
    """Serve, launch or be a rank; the exit code is 0 or 1."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(
            number, signal.SIG_DFL
        )  # whatever a shell had ignored: the main process must be able to end us
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # TRL and others tell the hub, or whatever HF_ENDPOINT names, that they were used: nobody asked for it.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    if arguments[:1] == ["--launch"]:
        return launch(arguments[1], int(arguments[2]), arguments[3])
    # The two streams get numbers that no child inherits; stages find an empty stdin, and print into the log.
    control, events = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    if not arguments:
        progress.connect(events)
        return serve(Specs(control))
    progress.connect(events, rank=int(os.environ.get("RANK", "0")))
    watch(control)
    event = carry_out(json.loads(Path(arguments[0]).read_text()))
    if event["event"] == "error" or progress.leads():
        progress.send(**event)
    return int(event["event"] == "error")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
