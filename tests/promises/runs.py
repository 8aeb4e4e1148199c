"""A whole run of a tiny model, as small as one gets that passes through every stage, started as a user would start it."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipeline import integrity, locks
from pipeline.processes import alive
from pipeline.store import MANIFEST
from pipeline.usage import KEY, LEFT_OVER

ROOT = Path(__file__).resolve().parents[2]
MARK = "SAFEMERGE_FAULTS_RUN"  # in the environment of a run and of all that it starts
GONE_S = 10.0  # seconds within which all of a run has to be gone once its main process is
SMALLEST = [
    "model=tiny",
    "model.base.steps=8",
    "model.base.hidden_size=64",
    "model.base.intermediate_size=96",
    "model.base.num_hidden_layers=2",
    "model.base.num_attention_heads=2",
    "model.base.num_key_value_heads=2",
    "train.args.save_steps=1",
    "train.args.logging_steps=1",  # a line of the log is the mean since the last one, which a checkpoint does not hold
    "train.task.limit=24",
    "train.safety.limit=16",
    "train.align.limit=16",
    "train.align.helpful_limit=8",
    "method=[aligned,finetuned,safemerge]",
    "method.safemerge.tau=q0.5",
    "method.safemerge.alpha=0.7",
    "data.limits.items={gsm8k: 8, directharm: 8, xstest: 6}",
    "generation.max_tokens={default: 6, gsm8k: 6}",
    "likelihood.prompts=3",
    "tracking=off",
]
GUARD = ["judge=[guard,refusal]", "judge.guard.threshold=0.5", "train.guard.limit=16"]
#: Kinds of runs: transformers in the worker itself; by two engines that share the prompts; vLLM's engine in a process of
#: its own, which takes one prompt at a time, so that no reply depends on what else is in its batch, and serves a guard.
KINDS: dict[str, tuple[list[str], dict[str, str]]] = {
    "transformers": (["generation.backend=transformers"], {}),
    "engines": (["generation.backend=transformers", "generation.data_parallel_size=2"], {}),
    "vllm": (["generation.max_num_seqs=1", *GUARD], {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}),
}
#: What a run leaves that says when and how long, not what: not compared.
TIMES = (*integrity.APART,)
REPORT = ("results.csv", "similarity.csv")


@dataclass(frozen=True)
class Place:
    """A store and a folder of runs, and the command that fills them."""

    folder: Path
    kind: str
    more: tuple[str, ...] = ()

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def command(self) -> list[str]:
        where = [f"store={self.store}", f"runs={self.folder}/runs", f"tracking.dir={self.folder}/tracking"]
        return [sys.executable, "-m", "pipeline", *SMALLEST, *KINDS[self.kind][0], *where, *self.more]

    @property
    def environment(self) -> dict[str, str]:
        """What is set beside the environment of these tests."""
        return KINDS[self.kind][1]

    def start(self, log: str = "out.txt") -> subprocess.Popen[str]:
        """The main process; what it says goes to the end of a file, as under nohup."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        with (self.folder / log).open("a") as out:
            return subprocess.Popen(
                self.command,
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, MARK: str(self.folder)}
                | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                text=True,
                # A background job of a shell ignores SIGINT, and so would all that is started from it.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def said(self, log: str = "out.txt") -> str:
        """All that its main processes have said."""
        path = self.folder / log
        return path.read_text(errors="replace") if path.exists() else ""

    def changes(self) -> dict[str, int]:
        """Size of every file of the store and of the reports, by its path: a poor man's inotify."""
        found: dict[str, int] = {}
        for root in (self.store, self.folder / "runs"):
            for at, _, files in os.walk(root):
                for name in files:
                    path = os.path.join(at, name)
                    try:
                        found[os.path.relpath(path, self.folder)] = os.stat(path).st_size
                    except OSError:  # moved meanwhile
                        continue
        return found

    def artifacts(self) -> list[Path]:
        """The finished ones."""
        return [path for path in sorted(self.store.glob("*/*")) if KEY.fullmatch(path.name)]

    def members(self) -> list[psutil.Process]:
        """All processes of this place's runs, by the mark in their environment."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == str(self.folder) and alive(process):
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def results(self) -> dict[str, str]:
        """The hash of each file that a run is for, by its path: artifacts by their key, and the tables of the report.

        Adapters name the folder of their model, and so this place, which is left out of the hash.
        """
        files = [
            path
            for folder in self.artifacts()
            for path in folder.rglob("*")
            if path.is_file() and path.relative_to(folder).as_posix() not in TIMES
        ]
        files += [path for name in REPORT for path in (self.folder / "runs").glob(f"*/report/{name}")]
        return {
            path.relative_to(self.folder).as_posix(): hashlib.sha256(
                path.read_bytes().replace(str(self.folder).encode(), b"PLACE")
            ).hexdigest()
            for path in sorted(files)
        }


def differing(ours: dict[str, str], theirs: dict[str, str]) -> list[str]:
    """The files that only one has, or that differ."""
    return sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))


def unsound(place: Place) -> list[str]:
    """What is wrong with a store in which nobody is at work: artifacts that are not whole, locks that somebody holds."""
    found = []
    for folder in place.artifacts():
        if not (folder / MANIFEST).exists():
            found.append(f"{folder.parent.name}/{folder.name} has no manifest")
        elif (reason := integrity.damage(folder, folder / MANIFEST)) is not None:
            found.append(f"{folder.parent.name}/{folder.name}: {reason}")
    for path in [*place.store.glob("*/*.lock"), *(place.folder / "runs").glob(".lock")]:
        lock = locks.new(path, "native")
        if locks.taken(lock):
            lock.release()
        else:
            found.append(f"{path.name} is still held")
    return found


def left(place: Place) -> list[str]:
    """What a run that has ended well leaves and should not: half artifacts, and what was set aside.

    The file of a lock that nobody holds may stay after a kill: it keeps nobody waiting.
    """
    paths = place.store.glob("*/*")
    return [f"{path.parent.name}/{path.name} is left" for path in sorted(paths) if path.suffix in LEFT_OVER]


def outliving(place: Place, known: Iterable[psutil.Process] = ()) -> tuple[list[str], float]:
    """Names of processes that are still there after `GONE_S` seconds, which are then ended; and how long it took (s)."""
    start, known = time.monotonic(), list(known)
    while True:
        there = [p for p in {*place.members(), *known} if alive(p)]
        seconds = time.monotonic() - start
        if not there or seconds > GONE_S:
            break
        time.sleep(0.05)
    names = []
    for process in there:
        try:
            names.append(f"process left: {' '.join(process.cmdline())[-120:]}")
            process.kill()
        except psutil.Error:
            continue
    return names, seconds
