"""One stage in a process of its own, so that the next one finds the GPU empty: `python -m pipeline.worker SPEC`.

SPEC is a JSON file: {"stage", "jobs": [{"name", "settings", "speed", "inputs": {role: folder}, "output": folder}]}.
Jobs are finished one by one; each gets a `done.json`, after which the main process moves it to its final place.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import UserError
from pipeline.store import DONE


@dataclass(frozen=True)
class Job:
    """One artifact to make: settings, the folders it is made from, and the folder to write into."""

    name: str
    settings: dict[str, Any]
    speed: dict[str, Any]
    inputs: dict[str, Path]
    output: Path

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Write `done.json` when the block ends without an exception."""
        start = time.monotonic()
        yield
        finish(self, time.monotonic() - start)


def finish(job: Job, seconds: float) -> None:
    """Mark a job's output as complete, with its wall time (s) and the process's peak memory (bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    (job.output / DONE).write_text(json.dumps({"wall_s": round(seconds, 2), "peak_memory_bytes": peak}))


def main(spec_path: str) -> int:
    """Run the spec's stage; 0, or 2 after one line on stderr for what the user can mend."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    spec = json.loads(Path(spec_path).read_text())
    jobs = [
        Job(
            j["name"],
            j["settings"],
            j["speed"],
            {k: Path(v) for k, v in j["inputs"].items()},
            Path(j["output"]),
        )
        for j in spec["jobs"]
    ]
    stage = importlib.import_module(f"pipeline.stages.{spec['stage']}")
    try:
        stage.run(jobs)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
