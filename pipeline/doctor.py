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
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

try:
    import psutil
    from rich.console import Console
    from rich.table import Table

    from pipeline import precision, preflight, provenance
    from pipeline.lacks import lacking, said
    from pipeline.tracking import has_key
    from safemerge import hub as model_hub
except ImportError as error:
    BROKEN = str(error)
else:
    BROKEN = ""

ROOT = Path(__file__).resolve().parent.parent
#: Minutes of the first run on two cores after set-up, by precision: whole runs on a processor with AVX512_BF16 (9:20), and
#: on it with both libraries held to AVX2 (16:08).
MINUTES = {"tiny": {"float32": 2, "bfloat16": 2}, "smollm2-135m": {"float32": 17, "bfloat16": 10}}
NEEDS_GIB, NEEDS_DISK_GIB = 6.0, 10.0
LOAD_S = 120.0  # that vLLM gets to load: 10 s on an idle machine
HUB_S = 5.0  # seconds that the hub gets to answer; looking up its name may hang for longer
CGROUP = Path("/sys/fs/cgroup")
#: Loads vLLM's compiled part too: `import vllm` alone succeeds where a library is missing that it links.
LOAD_VLLM = """
import vllm
from vllm.platforms import current_platform
current_platform.import_kernels()
print(vllm.__version__ if current_platform.device_type else "finds no device that it can run on")
"""


@dataclass(frozen=True)
class Finding:
    """One line of the screen. `remedy` is set where something is wrong; `fatal` if the default model cannot run so.

    undecided: it could not be found out whether it can.
    """

    what: str
    found: str
    remedy: str = ""
    fatal: bool = False
    undecided: bool = False


def _load_vllm(seconds: float) -> str | None:
    """vLLM's version if it loads in a process of its own, else why it does not, in one line; None if it takes longer."""
    environment = {**os.environ, "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", LOAD_VLLM],
            capture_output=True,
            text=True,
            timeout=seconds,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return None
    _, warned, why = (done.stdout + done.stderr).partition("Failed to import from vllm._C")
    if warned:  # vLLM itself goes on, and fails at the first prompt
        return f"does not load: {why.partition(': ')[2].splitlines()[0][:120]}"
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    last = lines[-1] if lines else "no output"
    return last if done.returncode == 0 else f"does not load: {last[:120]}"


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> list[Finding]:
    """Python, cores, instruction sets, and the precision they lead to."""
    dtype, reason = precision.automatic()
    sets = ", ".join(precision.instruction_sets()) or "not listed by this system"
    return [
        Finding("Python", platform.python_version()),
        Finding("cores", str(cores())),
        Finding("instruction sets", sets),
        Finding("precision", f"{dtype} ({reason})"),
    ]


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # not there, or "max"
        return None


def memory() -> Finding:
    """Memory in all and free (GiB), within a container's limit."""
    seen = psutil.virtual_memory()
    limit, used = (_number(CGROUP / name) for name in ("memory.max", "memory.current"))
    total, free = seen.total / 2**30, seen.available / 2**30
    if limit is not None and limit / 2**30 < total:
        total = limit / 2**30
        free = min(free, total - (used or 0) / 2**30)
    text = f"{total:.1f} GiB, {free:.1f} free"
    low = free < NEEDS_GIB
    return Finding("memory", text, f"the default model needs {NEEDS_GIB:.0f} GiB free" if low else "", low)


def disk(folder: Path = Path("outputs")) -> Finding:
    """Free space (GiB) where the artifacts go."""
    place, name = (folder, f"at {folder}") if folder.exists() else (Path.cwd(), "in this folder")
    free = shutil.disk_usage(place).free / 2**30
    low = free < NEEDS_DISK_GIB
    remedy = f"keep {NEEDS_DISK_GIB:.0f} GiB free, or give store=DIR on another disk" if low else ""
    return Finding("disk", f"{free:.0f} GiB free {name}", remedy)


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
    """vLLM, loaded for real: its build may not fit the machine."""
    without = 'ARGS="generation.backend=transformers" does without it, slower'
    if not sys.platform.startswith("linux"):
        return Finding("vLLM", "there is none for this system", without, fatal=True)
    found = _load_vllm(LOAD_S)
    if found is None:
        text = f"still loading after {LOAD_S:.0f} s"
        return Finding(
            "vLLM", text, "make doctor again when this machine or its disk is less busy", undecided=True
        )
    if found[:1].isdigit():
        return Finding("vLLM", found)
    remedy = "make setup"
    if "libnuma" in found:
        remedy = "install libnuma (libnuma1 on Debian)"
    elif "no device" in found:
        remedy = "BACKEND=cpu make setup, or look why the GPU is not seen"
    return Finding("vLLM", found, f"{remedy}; {without}", fatal=True)


def hub() -> Finding:
    """Whether the model hub answers, within `HUB_S`."""
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return Finding("model hub", "not asked: HF_HUB_OFFLINE=1")
    answers: list[bool] = []
    asking = threading.Thread(target=lambda: answers.append(model_hub.reachable()), daemon=True)
    asking.start()
    asking.join(HUB_S)
    text = "reachable" if any(answers) else "does not answer (tiny and the default model do not need it)"
    return Finding("model hub", text)


def code() -> Finding:
    """The commit of this checkout."""
    git = provenance.git()
    if not git.commit:
        return Finding("code", "not a git checkout")
    return Finding("code", f"commit {git.commit[:10]}{', with changes' if git.dirty else ''}")


def environment() -> Finding:
    """Whether the last set-up came to its end."""
    if Path(sys.prefix) != ROOT / ".venv":
        return Finding("environment", "not this folder's .venv")
    unfinished = not (ROOT / ".venv/.ready").exists()
    return Finding(
        "environment",
        ".venv, set-up unfinished" if unfinished else ".venv",
        "make setup" if unfinished else "",
    )


def secrets() -> Finding:
    """Which keys are there, never their values."""
    present = {
        "hub token": preflight.hub_token(),
        "W&B key": has_key(),
        "judge server key": bool(os.environ.get("OPENAI_API_KEY")),
    }
    return Finding(
        "keys", ", ".join(f"{name}: {'yes' if there else 'no'}" for name, there in present.items())
    )


def models(findings: list[Finding]) -> list[Finding]:
    """What each MODEL= would take here, or what it lacks."""
    broken = [f.what for f in findings if f.fatal]
    dtype, _ = precision.automatic()
    rows = []
    for name, minutes in MINUTES.items():
        guess = minutes["float32" if dtype == "float32" else "bfloat16"] * 2 / min(cores(), 8)
        text = f"about {max(1, round(guess))} min" + ("" if cores() == 2 else " (a guess from two cores)")
        rows.append(Finding(f"MODEL={name}", f"see {', '.join(broken)} first" if broken else text))
    reachable = any(f.what == "model hub" and f.found == "reachable" for f in findings)
    lines = said(lacking(ROOT / "conf", reachable, without=MINUTES))
    rows += [Finding("" if i else "from the hub", line) for i, line in enumerate(lines)]
    return [*rows, Finding("", "more on each: make plan MODEL=...")]


def examine() -> list[Finding]:
    """All findings, the slow ones side by side."""
    slow: list[Callable[[], Finding]] = [torch_build, vllm, hub, graphics, code]
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(check) for check in slow]
        findings = [environment(), *processor(), memory(), disk(), secrets()]
        findings += [w.result() for w in waiting]
    return [*findings, *models(findings)]


def main() -> int:
    """Print the screen; 0 if the default model can run here, else 1."""
    if BROKEN:
        print(f"Python    {platform.python_version()}\npackages  {BROKEN}\n          ! make setup")
        print("the default model cannot run here: packages")
        return 1
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
    undecided = [f.what for f in findings if f.undecided]
    if fatal:
        console.print(f"the default model cannot run here: {', '.join(fatal)}")
    elif undecided:
        console.print(f"the default model can run here, if {', '.join(undecided)} can")
    else:
        console.print("the default model can run here")
    return int(bool(fatal))


if __name__ == "__main__":
    sys.exit(main())
