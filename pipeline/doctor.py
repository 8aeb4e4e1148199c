"""`make doctor`: one screen that says what this machine can run, what is missing, and what to do about it.

Works where the environment is broken, too: nothing heavy is imported here, and what may fail is tried in its own process.
Secrets are named as present or absent, never shown.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from pipeline import precision
from pipeline.preflight import gpu_gib, hub_reachable, hub_token
from pipeline.tracking import has_key

#: Minutes of the first run on two cores, by precision. tiny: a whole run on a processor with AVX512_BF16. The default in
#: bfloat16: the sum of its stages there, measured in several runs; in float32 a guess from the cost of a matrix product.
MINUTES = {"tiny": {"float32": 2, "bfloat16": 2}, "smollm2-135m": {"float32": 30, "bfloat16": 15}}
NEEDS_GIB, NEEDS_DISK_GIB = 6.0, 10.0
LARGE = {"llama2-7b": 6.74e9, "qwen2-7b": 7.62e9, "qwen2.5-7b": 7.62e9, "llama3.1-8b": 8.03e9}


@dataclass(frozen=True)
class Finding:
    """One line of the screen. `remedy` is set where something is wrong; `fatal` if the default model cannot run so."""

    what: str
    found: str
    remedy: str = ""
    fatal: bool = False


def _importable(name: str, seconds: float) -> str:
    """Version of a package that imports in a process of its own, or why it does not, in one line."""
    code = f"import {name}; print({name}.__version__)"
    environment = {**os.environ, "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            capture_output=True,
            text=True,
            timeout=seconds,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {seconds:.0f} s"
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    last = lines[-1] if lines else "no output"
    return last if done.returncode == 0 else f"does not import: {last[:120]}"


def processor() -> list[Finding]:
    """Python, cores, instruction sets, and the precision they lead to."""
    dtype, reason = precision.automatic()
    sets = ", ".join(precision.instruction_sets()) or "not listed by this system"
    return [
        Finding("Python", platform.python_version()),
        Finding("cores", str(psutil.cpu_count())),
        Finding("instruction sets", sets),
        Finding("precision", f"{dtype} ({reason})"),
    ]


def memory() -> Finding:
    """Memory in all and free (GiB)."""
    seen = psutil.virtual_memory()
    text = f"{seen.total / 2**30:.1f} GiB, {seen.available / 2**30:.1f} free"
    low = seen.available / 2**30 < NEEDS_GIB
    return Finding("memory", text, f"the default model needs {NEEDS_GIB:.0f} GiB free" if low else "", low)


def disk(folder: Path = Path("outputs")) -> Finding:
    """Free space (GiB) where the artifacts go."""
    place = folder if folder.exists() else Path.cwd()
    free = shutil.disk_usage(place).free / 2**30
    low = free < NEEDS_DISK_GIB
    remedy = f"keep {NEEDS_DISK_GIB:.0f} GiB free, or give store=DIR on another disk" if low else ""
    return Finding("disk", f"{free:.0f} GiB free at {place}", remedy)


def graphics() -> Finding:
    """The GPUs, and whether the installed torch can use them."""
    gpus = precision.gpus()
    if not gpus:
        return Finding("GPU", "none")
    names = ", ".join(f"{g['name']} ({g['memory_gib']:.0f} GiB)" for g in gpus)
    unused = precision.cuda_capability() is None
    return Finding("GPU", names, "torch does not use it: BACKEND=cuda make setup" if unused else "")


def torch_build() -> Finding:
    """The installed torch, by its package data."""
    try:
        return Finding("torch", importlib.metadata.version("torch"))
    except importlib.metadata.PackageNotFoundError:
        return Finding("torch", "not installed", "make setup", fatal=True)


def vllm() -> Finding:
    """vLLM, imported for real: its build may not fit the machine."""
    found = _importable("vllm", 60)
    if found[:1].isdigit():
        return Finding("vLLM", found)
    remedy = "make setup, or run with generation.backend=transformers (slower)"
    if "libnuma" in found:
        remedy = f"install libnuma (libnuma1 on Debian); {remedy}"
    return Finding("vLLM", found, remedy)


def hub() -> Finding:
    """Whether the model hub answers."""
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return Finding("model hub", "not asked: HF_HUB_OFFLINE=1")
    text = "reachable" if hub_reachable() else "does not answer (tiny and the default model do not need it)"
    return Finding("model hub", text)


def secrets() -> Finding:
    """Which keys are there, never their values."""
    present = {
        "hub token": hub_token(),
        "W&B key": has_key(),
        "judge server key": bool(os.environ.get("OPENAI_API_KEY")),
    }
    return Finding(
        "keys", ", ".join(f"{name}: {'yes' if there else 'no'}" for name, there in present.items())
    )


def models(findings: list[Finding]) -> list[Finding]:
    """What each MODEL= would take here."""
    broken = [f.what for f in findings if f.fatal]
    dtype, _ = precision.automatic()
    cores = max(1, psutil.cpu_count() or 1)
    rows = []
    for name, minutes in MINUTES.items():
        guess = minutes["float32" if dtype == "float32" else "bfloat16"] * 2 / min(cores, 8)
        text = f"about {max(1, round(guess))} min" + ("" if cores == 2 else " (a guess from two cores)")
        rows.append(Finding(f"MODEL={name}", f"see {', '.join(broken)} first" if broken else text))
    have = max((g["memory_gib"] for g in precision.gpus()), default=0.0)
    need = max(gpu_gib(parameters) for parameters in LARGE.values())
    names = ", ".join(LARGE)
    if have >= need:
        rows.append(Finding("7B-8B models", f"fit: {names}; make plan MODEL=... says what is lacking"))
    else:
        rows.append(Finding("7B-8B models", f"need a GPU with {need:.0f} GiB ({names})"))
    return rows


def examine() -> list[Finding]:
    """All findings, the slow ones side by side."""
    slow: list[Callable[[], Finding]] = [torch_build, vllm, hub, graphics]
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(check) for check in slow]
        findings = [*processor(), memory(), disk(), secrets()]
        findings += [w.result() for w in waiting]
    return [*findings, *models(findings)]


def main() -> int:
    """Print the screen; 0 if the default model can run here, else 1."""
    findings = examine()
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        wrong = f"\n[red]! {finding.remedy}[/]" if finding.remedy else ""
        table.add_row(finding.what, finding.found.replace("[", r"\[") + wrong)
    console = Console(highlight=False)
    console.print(table)
    fatal = [f.what for f in findings if f.fatal]
    console.print(
        f"the default model cannot run here: {', '.join(fatal)}"
        if fatal
        else "the default model can run here"
    )
    return int(bool(fatal))


if __name__ == "__main__":
    sys.exit(main())
