"""Which number format this machine is fast in: what `dtype: auto` in the config stands for. Imports no torch.

bfloat16 halves memory and time where the processor multiplies it natively. Elsewhere torch emulates it: on AVX2 a forward
pass is several times, a training step twenty times slower than in float32. The answer is found by capability, never by the
brand of the processor, and it honours the two environment variables that cap what torch and oneDNN may use:
`ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2` shows on a new machine what an older one would do.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

#: Of the processor's flags, those that decide how fast its matrix products are; as Linux spells them.
FLAGS = (
    "avx",
    "avx2",
    "avx512f",
    "avx512_bf16",
    "amx_bf16",
    "amx_tile",
    "neon",
    "asimd",
    "sve",
    "bf16",
    "i8mm",
)
#: Any of these multiplies bfloat16 natively ("bf16" is Arm's name for it).
NATIVE_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
CPUINFO = Path("/proc/cpuinfo")


@functools.cache
def hardware_flags(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """Those of `FLAGS` that the processor itself reports; empty where the system does not list them.

    macOS lists none here: PyTorch's builds for it have no native bfloat16 products, so float32 is right there too.
    """
    try:
        text = cpuinfo.read_text(errors="replace")
    except OSError:
        return frozenset()
    lines = (
        line for line in text.splitlines() if line.partition(":")[0].strip().lower() in ("flags", "features")
    )
    return frozenset(next(lines, "").partition(":")[2].split()) & set(FLAGS)


def capped(flags: frozenset[str]) -> frozenset[str]:
    """The flags that are left when the environment caps what torch (`ATEN_CPU_CAPABILITY`) or oneDNN may use."""
    aten = os.environ.get("ATEN_CPU_CAPABILITY", "").lower()
    onednn = (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "").upper()
    if aten in ("default", "avx2") or onednn in ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2"):
        return frozenset(f for f in flags if not f.startswith(("avx512", "amx")))
    if onednn in ("AVX512_CORE", "AVX512_CORE_VNNI"):
        return frozenset(f for f in flags if not f.startswith(("avx512_bf16", "amx")))
    if onednn.startswith(("AVX512_CORE", "AVX10")) and "AMX" not in onednn:
        return frozenset(f for f in flags if not f.startswith("amx"))
    return flags


def instruction_sets() -> list[str]:
    """The instruction sets in effect that matter here, sorted; part of what every result says about its machine."""
    return sorted(capped(hardware_flags()))


@functools.cache
def _torch_has_cuda() -> bool:
    """Whether the installed torch was built for CUDA, read from its version file."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    try:
        text = (Path(spec.origin).parent / "version.py").read_text()
    except OSError:  # a half-installed torch, which the import will complain of
        return False
    return not any(line.startswith("cuda") and line.rstrip().endswith("None") for line in text.splitlines())


@functools.cache
def gpus() -> list[dict[str, Any]]:
    """Name, memory (GiB) and compute capability ("8.0") of each NVIDIA GPU, by nvidia-smi; empty without one."""
    query = ["nvidia-smi", "--query-gpu=memory.total,compute_cap,name", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    found = []
    for line in done.stdout.splitlines():
        try:
            memory, capability, name = line.split(",", 2)
            # "[N/A]" where the GPU shares the machine's memory
            known = memory.strip()[:1].isdigit()
            gib = (
                float(memory) / 1024
                if known
                else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
            )
            float(capability)
        except ValueError:  # no such row, or a GPU that does not say what it can do
            continue
        found.append(
            {"name": name.strip(), "memory_gib": round(gib, 1), "compute_capability": capability.strip()}
        )
    return found


def cuda_capability() -> tuple[int, int] | None:
    """The lowest compute capability of all GPUs here, hidden ones too; None where torch can use none."""
    if (
        os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1", "NoDevFiles")
        or not _torch_has_cuda()
    ):
        return None
    found = [tuple(map(int, gpu["compute_capability"].split("."))) for gpu in gpus()]
    return min(found)[:2] if found else None  # type: ignore[return-value]


LARGE = 1e9  # parameters above which a model is for a GPU


def automatic(parameters: float = 0.0) -> tuple[str, str]:
    """The number format that is fast here, and why, in a few words.

    bfloat16 on GPUs from compute capability 8.0 on and on processors with AVX512_BF16, AMX or Arm BF16; float16 on older
    GPUs; float32 elsewhere. A model of so many parameters that it needs a GPU is planned for one where there is none.
    """
    capability = cuda_capability()
    if capability is not None:
        name = f"GPU of compute capability {capability[0]}.{capability[1]}"
        return ("bfloat16", name) if capability >= (8, 0) else ("float16", f"{name}, below 8.0")
    if parameters > LARGE:
        return "bfloat16", "no GPU; planned for one that multiplies bfloat16"
    native = sorted(NATIVE_BFLOAT16.intersection(instruction_sets()))
    if native:
        return "bfloat16", f"processor with {', '.join(native)}"
    return "float32", f"no native bfloat16 on this {platform.machine()} processor"


def resolve(setting: Any, parameters: float = 0.0) -> Any:
    """The dtype that a setting stands for: `auto` is this machine's, anything else itself."""
    return automatic(parameters)[0] if setting == "auto" else setting
