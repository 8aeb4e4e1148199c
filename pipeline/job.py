"""One artifact to make, and what making it cost."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

from pipeline import progress
from pipeline.store import DONE
from pipeline.unkeyed import Unkeyed
from safemerge.whole_files import write_whole

Form = TypeVar("Form", bound=Unkeyed)


@dataclass
class Job:
    """One artifact to make: settings, the folders it is made from, and the folder to write into."""

    name: str
    settings: dict[str, Any]
    unkeyed: Unkeyed
    inputs: dict[str, Path]
    output: Path
    adapter_key: str = ""  # of the adapter among the inputs; "" without one
    tokens: int | None = None  # None: the stage counts none

    def beside(self, form: type[Form]) -> Form:
        """What the job is told beside its settings, in the form that its stage reads.

        Raises:
            TypeError: the plan told it something else.
        """
        if not isinstance(self.unkeyed, form):
            raise TypeError(f"{self.name} is told {self.unkeyed}, not {form.__name__}")
        return self.unkeyed

    def count_tokens(self, number: int) -> None:
        """Add tokens that were trained on, generated or judged; to be called before the job finishes."""
        self.tokens = (self.tokens or 0) + number

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Write `done.json` when the block ends without an exception; its cost is the block's."""
        _meter.reset_peak()
        start, cpu = time.monotonic(), cpu_seconds()
        yield
        _write(self, time.monotonic() - start, cpu_seconds() - cpu)


def finish(job: Job, seconds: float, share: float | None = None) -> None:
    """Mark a job's output as complete, for jobs of a spec that are made together.

    Args:
        seconds: wall time of all of them together.
        share: this job's part of the cost, 0 to 1; None: an equal part for each job of the spec.
    """
    part = 1 / _meter.jobs if share is None else share
    _write(job, seconds * part, (cpu_seconds() - _meter.cpu) * part)


def _write(job: Job, wall_s: float, cpu_s: float) -> None:
    if (
        not progress.leads()
    ):  # another rank would call an adapter complete that the first one is still writing
        return
    done = {
        "wall_s": round(wall_s, 2),
        "cpu_s": round(max(cpu_s, 0.0), 2),
        "tokens": job.tokens,
        "peak_memory_bytes": peak_memory(),
        "peak_gpu_bytes": peak_gpu_memory(),
    }
    write_whole(job.output / DONE, json.dumps(done))


def cpu_seconds() -> float:
    """User and system time (s) so far of this process, its ended children and its living descendants."""
    total = sum(os.times()[:4])
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                total += sum(process.cpu_times()[:4])
    return total


def peak_memory() -> int:
    """Largest resident memory (bytes) of this process since the last reset; since its start where there is no reset."""
    with contextlib.suppress(OSError), open("/proc/self/status") as lines:
        for line in lines:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_gpu_memory() -> int | None:
    """Most GPU memory (bytes) that this process's tensors held since the last reset; None without a GPU or torch."""
    torch = sys.modules.get("torch")
    return int(torch.cuda.max_memory_allocated()) if torch and torch.cuda.is_available() else None


class Meter:
    """Cost of the spec that this process is working on."""

    def __init__(self, jobs: int = 1, cpu: float = 0.0) -> None:
        self.jobs, self.cpu, self.peak = jobs, cpu, 0

    def reset_peak(self) -> None:
        """Start the peak anew, for one job; the spec's own peak keeps the old one."""
        self.peak = max(self.peak, peak_memory())
        with contextlib.suppress(OSError):  # Linux only
            Path("/proc/self/clear_refs").write_text("5")
        torch = sys.modules.get("torch")
        if torch and torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def spent(self) -> dict[str, Any]:
        """cpu_s (s) and peak_memory_bytes since the spec began."""
        return {
            "cpu_s": round(max(cpu_seconds() - self.cpu, 0.0), 2),
            "peak_memory_bytes": max(self.peak, peak_memory()),
        }


_meter = Meter()


def begin(jobs: int) -> Meter:
    """Count from here: `jobs` jobs begin."""
    global _meter
    _meter = Meter(jobs, cpu_seconds())
    _meter.reset_peak()
    _meter.peak = 0
    return _meter
