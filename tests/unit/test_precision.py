"""Which number format `dtype: auto` stands for, on machines that this one is not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import precision

CAPS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "CUDA_VISIBLE_DEVICES")
AVX2 = "fpu sse4_2 avx avx2 fma"
AVX512 = f"{AVX2} avx512f avx512_vnni"
ZEN4 = f"{AVX512} avx512_bf16"
SAPPHIRE = f"{ZEN4} amx_bf16 amx_tile amx_int8"
NEOVERSE_N1, GRAVITON3 = "fp asimd asimddp", "fp asimd asimddp sve bf16 i8mm"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No caps, no GPU, a torch for CUDA."""
    for name in CAPS:
        monkeypatch.delenv(name, raising=False)
    gpus(monkeypatch)
    monkeypatch.setattr(precision, "_torch_has_cuda", lambda: True)
    yield


def gpus(monkeypatch: pytest.MonkeyPatch, *capabilities: str) -> None:
    found = [{"name": "x", "memory_gib": 80.0, "compute_capability": c} for c in capabilities]
    monkeypatch.setattr(precision, "gpus", lambda: found)


def processor(monkeypatch: pytest.MonkeyPatch, flags: str) -> None:
    chosen = frozenset(flags.split()) & set(precision.FLAGS)
    monkeypatch.setattr(precision, "hardware_flags", lambda: chosen)


@pytest.mark.parametrize(
    ("title", "flags", "expected"),
    [
        ("flags", AVX2, "float32"),
        ("flags", AVX512, "float32"),
        ("flags", ZEN4, "bfloat16"),
        ("flags", SAPPHIRE, "bfloat16"),
        ("Features", NEOVERSE_N1, "float32"),
        ("Features", GRAVITON3, "bfloat16"),
    ],
)
def test_the_processors_own_list_decides(
    title: str, flags: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        f"processor\t: 0\nmodel name\t: x bf16\n{title}\t: {flags}\nbugs\t\t: bf16\n\nprocessor\t: 1\n"
    )
    found = precision.hardware_flags(cpuinfo)
    assert found == set(flags.split()) & set(precision.FLAGS)
    monkeypatch.setattr(precision, "hardware_flags", lambda: found)
    assert precision.automatic()[0] == expected


def test_without_a_list_it_is_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert precision.hardware_flags(tmp_path / "none") == frozenset()
    processor(monkeypatch, "")
    chosen, why = precision.automatic()
    assert chosen == "float32" and "no native bfloat16" in why


@pytest.mark.parametrize(
    ("variable", "value", "expected", "left"),
    [
        ("ATEN_CPU_CAPABILITY", "avx2", "float32", {"avx", "avx2"}),
        ("ATEN_CPU_CAPABILITY", "default", "float32", {"avx", "avx2"}),
        ("ATEN_CPU_CAPABILITY", "avx512", "bfloat16", None),
        ("ONEDNN_MAX_CPU_ISA", "AVX2", "float32", {"avx", "avx2"}),
        ("ONEDNN_MAX_CPU_ISA", "avx512_core", "float32", {"avx", "avx2", "avx512f"}),
        ("DNNL_MAX_CPU_ISA", "AVX512_CORE_VNNI", "float32", {"avx", "avx2", "avx512f"}),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16", "bfloat16", {"avx", "avx2", "avx512f", "avx512_bf16"}),
        ("ONEDNN_MAX_CPU_ISA", "AVX10_1_512", "bfloat16", {"avx", "avx2", "avx512f", "avx512_bf16"}),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_AMX", "bfloat16", None),
        ("ONEDNN_MAX_CPU_ISA", "ALL", "bfloat16", None),
    ],
)
def test_caps_in_the_environment_count(
    variable: str, value: str, expected: str, left: set[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(monkeypatch, SAPPHIRE)
    every = precision.instruction_sets()
    monkeypatch.setenv(variable, value)
    assert precision.instruction_sets() == (every if left is None else sorted(left))
    assert precision.automatic()[0] == expected


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        (["7.5"], "float16"),
        (["8.0"], "bfloat16"),
        (["9.0"], "bfloat16"),
        (["12.1"], "bfloat16"),
        (["9.0", "7.5"], "float16"),
        (["9.0", "8.6", "10.0"], "bfloat16"),
    ],
)
def test_a_gpu_decides_by_its_capability_the_weakest_of_several(
    capabilities: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(monkeypatch, AVX2)
    gpus(monkeypatch, *capabilities)
    assert precision.automatic()[0] == expected


@pytest.mark.parametrize("hidden", ["", " ", "-1", "NoDevFiles"])
def test_hidden_gpus_do_not_count(hidden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, AVX2)
    gpus(monkeypatch, "9.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert precision.cuda_capability() is None and precision.automatic()[0] == "float32"


def test_a_torch_for_cpus_uses_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, ZEN4)
    gpus(monkeypatch, "7.5")
    monkeypatch.setattr(precision, "_torch_has_cuda", lambda: False)
    assert precision.automatic() == ("bfloat16", "processor with avx512_bf16")


@pytest.mark.parametrize("forced", ["float32", "bfloat16", "float16"])
def test_a_forced_format_is_taken_as_it_is(forced: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for flags in (AVX2, SAPPHIRE):
        processor(monkeypatch, flags)
        assert precision.resolve(forced) == forced
        assert precision.resolve("auto") == precision.automatic()[0]


def test_rows_of_nvidia_smi_that_say_nothing_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\nprintf '81559, 9.0, NVIDIA H100, 80GB\\n[N/A], 12.1, NVIDIA GB10\\n15360, [N/A], Old\\nno devices\\n'\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    precision.gpus.cache_clear()
    try:
        first, shared = precision.gpus()
        assert first == {"name": "NVIDIA H100, 80GB", "memory_gib": 79.6, "compute_capability": "9.0"}
        assert shared["compute_capability"] == "12.1" and shared["memory_gib"] > 0
    finally:
        precision.gpus.cache_clear()


ASK_TORCH = """
import torch
print(torch.backends.cpu.get_cpu_capability(), torch.cpu._is_avx512_bf16_supported(), torch.version.cuda is not None)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the flags are Linux's")
def test_torch_sees_what_we_see_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for name in CAPS:
        monkeypatch.delenv(name, raising=False)

    def ask(**caps: str) -> list[str]:
        answer = subprocess.run(
            [sys.executable, "-c", ASK_TORCH],
            env=os.environ | caps,
            capture_output=True,
            text=True,
            check=True,
        )
        return answer.stdout.split()

    capability, bfloat16, cuda = ask()
    flags = precision.instruction_sets()
    assert (capability == "AVX512") == ("avx512f" in flags)
    assert (bfloat16 == "True") == ("avx512_bf16" in flags)
    assert (cuda == "True") == precision._torch_has_cuda()
    if capability.startswith("AVX"):
        assert ask(ATEN_CPU_CAPABILITY="avx2")[0] == "AVX2"
        monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
        assert "avx512f" not in precision.instruction_sets() and "avx2" in precision.instruction_sets()


def test_a_model_that_needs_a_gpu_is_planned_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A laptop without native bfloat16 said that an 8B model takes a GPU with 39 GiB."""
    processor(monkeypatch, AVX2)
    gpus(monkeypatch)
    assert precision.resolve("auto", 8e9) == "bfloat16" and precision.resolve("auto", 5e8) == "float32"
    assert precision.resolve("float32", 8e9) == "float32"
    gpus(monkeypatch, "7.5")
    assert precision.resolve("auto", 8e9) == "float16"
