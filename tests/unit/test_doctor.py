"""The doctor's screen: right on faked machines, silent about secrets, and alive where things are broken."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import compose
from omegaconf import DictConfig

from pipeline import doctor, lacks, precision, preflight

ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def composed(name: str, *overrides: str) -> DictConfig:
    """The models' configs, once for all screens."""
    return compose(name, list(overrides))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No import of vLLM, no network, nothing composed twice."""
    monkeypatch.setattr(doctor, "_load_vllm", lambda seconds: "0.32.0")
    monkeypatch.setattr(lacks, "compose", lambda name, overrides: composed(name, *overrides))
    monkeypatch.setattr("safemerge.hub.reachable", lambda **_: False)
    monkeypatch.setattr(preflight, "gpus", list)
    monkeypatch.setattr(precision, "gpus", list)
    monkeypatch.setattr(doctor, "CGROUP", Path("nowhere"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nowhere/token")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "/nowhere/hub")
    monkeypatch.setattr(doctor, "cores", lambda: 2)
    monkeypatch.setattr(sys, "platform", "linux")


def screen(capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = doctor.main()
    return code, capsys.readouterr().out


def fake_memory(monkeypatch: pytest.MonkeyPatch, gib: float) -> None:
    seen = SimpleNamespace(total=16 * 2**30, available=gib * 2**30)
    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: seen)


def fake_disk(monkeypatch: pytest.MonkeyPatch, gb: float = 0.0) -> None:
    usage = type(shutil.disk_usage("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, gb * 1e9))


def test_a_sound_machine_runs_the_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_memory(monkeypatch, 12)
    code, text = screen(capsys)
    assert code == 0 and "the default model can run here" in text
    assert len(text.splitlines()) <= 32 and max(map(len, text.splitlines())) <= 80


def test_the_precision_and_its_minutes_follow_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, minutes in ((["avx", "avx2"], "17"), (["avx2", "avx512_bf16"], "10")):
        monkeypatch.setattr(precision, "instruction_sets", lambda flags=flags: flags)
        found = {f.what: f.found for f in [*doctor.processor(), *doctor.models([])]}
        assert ("bfloat16" in found["precision"].split(" ")[0]) == ("avx512_bf16" in flags)
        assert found["MODEL=smollm2-135m"] == f"about {minutes} min"


def test_little_memory_is_fatal_and_says_how_much_is_needed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_memory(monkeypatch, 2)
    code, text = screen(capsys)
    assert code == 1 and "needs 6 GiB free" in text and "cannot run here: memory" in text


def test_a_missing_torch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    found = doctor.torch_build()
    assert found.fatal and found.remedy == "make setup"


def test_a_vllm_without_libnuma_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "does not load: libnuma.so.1: cannot open shared object file"
    monkeypatch.setattr(doctor, "_load_vllm", lambda seconds: reason)
    found = doctor.vllm()
    assert "libnuma1 on Debian" in found.remedy and found.fatal


def test_keys_are_named_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("HF_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "planted-secret")
    _, text = screen(capsys)
    assert "planted-secret" not in text and text.count(": yes") == 3


def test_a_gpu_beside_a_cpu_build_of_torch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = {"name": "a card", "memory_gib": 80.0, "compute_capability": "9.0"}
    monkeypatch.setattr(precision, "gpus", lambda: [gpu])
    monkeypatch.setattr(precision, "cuda_capability", lambda: None)
    assert "BACKEND=cuda" in doctor.graphics().remedy


@pytest.mark.parametrize(("gib", "lacking"), [(0, True), (20, True), (80, False)])
def test_the_large_models_ask_for_a_gpu(gib: float, lacking: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [{"name": "a card", "memory_gib": float(gib), "compute_capability": "9.0"}] if gib else []
    monkeypatch.setattr(preflight, "gpus", lambda: gpus)
    fake_disk(monkeypatch)
    before = os.environ.get("HF_HUB_OFFLINE")
    found = [f.found for f in doctor.models([])]
    lines = [line for line in found if "llama3.1-8b" in line]
    assert len(lines) == lacking and all("a GPU with 21 GiB" in line for line in lines)
    (shared,) = [line for line in found if line.startswith("all lack")]
    assert "hub token" in shared and "53 GB of disk" in shared
    assert os.environ.get("HF_HUB_OFFLINE") == before


# The models' needs lie between: then each group lacks something else.
@pytest.mark.parametrize("gb", [0, 49, 52])
def test_the_screen_holds_when_all_is_wrong(
    gb: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_memory(monkeypatch, 2)
    fake_disk(monkeypatch, gb)
    monkeypatch.setattr(doctor, "_load_vllm", lambda seconds: "does not load: " + "libnuma.so.1 " * 9)
    gpu = {"name": "a card with a long name, first edition", "memory_gib": 2.0, "compute_capability": "9.0"}
    for place in (precision, preflight):
        monkeypatch.setattr(place, "gpus", lambda: [gpu])
    monkeypatch.setattr(precision, "cuda_capability", lambda: None)
    sets = ["avx", "avx2", "avx512_bf16", "avx512f", "amx_bf16", "avx512_fp16"]
    monkeypatch.setattr(precision, "instruction_sets", lambda: sets)
    monkeypatch.setattr(sys, "prefix", "/elsewhere")
    code, text = screen(capsys)
    assert code == 1 and "memory, vLLM" in text
    assert len(text.splitlines()) <= 32 and max(map(len, text.splitlines())) <= 80


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_memory(monkeypatch, 12)
    monkeypatch.setattr(doctor, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    assert not doctor.memory().fatal
    (tmp_path / "memory.max").write_text(f"{8 * 2**30}\n")
    (tmp_path / "memory.current").write_text(f"{3 * 2**30}\n")
    found = doctor.memory()
    assert found.found == "8.0 GiB, 5.0 free" and found.fatal


def test_more_cores_are_a_stated_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "cores", lambda: 8)
    monkeypatch.setattr(precision, "automatic", lambda *_: ("float32", "a test"))
    assert doctor.models([])[1].found == "about 4 min (a guess from two cores)"


def test_without_vllm_the_way_around_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    found = doctor.vllm()
    assert found.fatal and "generation.backend=transformers" in found.remedy


def test_a_hub_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("safemerge.hub.reachable", lambda **_: time.sleep(30))
    monkeypatch.setattr(doctor, "HUB_S", 0.2)
    before = time.monotonic()
    assert "does not answer" in doctor.hub().found
    assert time.monotonic() - before < 10


@pytest.mark.parametrize(
    ("package", "seconds", "expected"),
    [
        ("raise ImportError('libx.so: not there')", 60, "does not load: ImportError: libx.so: not there"),
        ("import time; time.sleep(60)", 1, None),
    ],
)
def test_a_vllm_that_does_not_load_is_one_line(
    package: str, seconds: int, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    (tmp_path / "vllm.py").write_text(package)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert doctor._load_vllm(seconds) == expected


def test_a_vllm_that_takes_long_decides_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A busy machine or a slow disk: make setup would not help, and the default model may well run."""
    fake_memory(monkeypatch, 16)
    monkeypatch.setattr(doctor, "_load_vllm", lambda seconds: None)
    assert doctor.vllm().remedy.startswith("make doctor again")
    code, text = screen(capsys)
    assert code == 0 and "still loading after 120 s" in text
    assert "the default model can run here, if vLLM can" in text


def test_a_kernel_that_vllm_only_warns_of_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm/__init__.py").write_text("__version__ = '1.0'")
    (tmp_path / "vllm/platforms.py").write_text(
        "class current_platform:\n    device_type = 'cpu'\n    @staticmethod\n    def import_kernels():\n"
        "        print('WARNING: Failed to import from vllm._C_AVX2: ImportError(\"libnuma.so.1: none\")')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert doctor._load_vllm(20) == 'does not load: ImportError("libnuma.so.1: none")'


def test_a_python_without_the_packages_gets_a_line_and_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-m", "pipeline.doctor"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1 and "make setup" in done.stdout and done.stderr == ""
