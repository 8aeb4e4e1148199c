"""A very small experiment in eight jobs, under any launcher: what it made, and how often."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "model=tiny",
    "judge=[refusal]",
    "model.base.steps=6",
    "train.task.limit=16",
    "train.safety.limit=16",
    "train.align.limit=16",
    "train.align.helpful_limit=8",
    "method=[aligned,finetuned,safemerge]",
    "data.limits.items={gsm8k: 4, directharm: 4, xstest: 4}",
    "generation.backend=transformers",
    "generation.max_tokens={default: 8}",
    "likelihood.prompts=2",
    "tracking=off",
]
JOBS = ["seed=0,1", "method.safemerge.tau=q0.3,q0.6", "method.safemerge.alpha=0.6,0.8"]
CONTENT = {".jsonl", ".safetensors", ".csv"}


class Multirun:
    """The jobs, with a store and runs of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store, self.runs = folder, folder / "store", folder / "runs"

    def start(self, *overrides: str, jobs: list[str] = JOBS) -> subprocess.Popen[str]:
        own = [f"store={self.store}", f"runs={self.runs}", f"hydra.sweep.dir={self.folder / 'multirun'}"]
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline", "-m", *SMALL, *jobs, *own, *overrides],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, *overrides: str, jobs: list[str] = JOBS) -> str:
        """What a multirun that must succeed printed, its jobs' logs included."""
        process = self.start(*overrides, jobs=jobs)
        out, err = process.communicate(timeout=1000)
        assert process.returncode == 0, out[-3000:] + err[-3000:]
        return out + "".join(path.read_text() for path in self.folder.glob("multirun/.submitit/**/*.out"))

    def made(self) -> dict[str, str]:
        """The content of every artifact and report, hashed."""
        folders = [
            path.parent for path in [*self.store.glob("*/*/manifest.json"), *self.runs.glob("*/run.json")]
        ]
        found = {}
        for folder in folders:
            files = sorted(path for path in folder.rglob("*") if path.suffix in CONTENT)
            text = b"".join(path.read_bytes() for path in files)
            found[f"{folder.parent.name}/{folder.name}"] = hashlib.sha256(text).hexdigest()[:12]
        return found

    def artifacts(self) -> int:
        return len(list(self.store.glob("*/*/manifest.json")))


def counted(out: str) -> tuple[int, int]:
    """(jobs that ended well, artifacts that they made)."""
    made = [int(number) for number in re.findall(r"(\d+) artifacts made", out)]
    return len(made), sum(made)
