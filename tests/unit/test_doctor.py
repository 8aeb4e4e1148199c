"""The doctor's screen: right on faked machines, silent about secrets, and alive where things are broken."""

from __future__ import annotations

import importlib.metadata
from types import SimpleNamespace

import pytest

from pipeline import doctor, precision


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No import of vLLM, no network."""
    monkeypatch.setattr(doctor, "_importable", lambda name, seconds: "0.32.0")
    monkeypatch.setattr(doctor, "hub_reachable", lambda: False)
    monkeypatch.setattr(precision, "gpus", list)


def screen(capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = doctor.main()
    return code, capsys.readouterr().out


def fake_memory(monkeypatch: pytest.MonkeyPatch, gib: float) -> None:
    seen = SimpleNamespace(total=16 * 2**30, available=gib * 2**30)
    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: seen)


def test_a_sound_machine_runs_the_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_memory(monkeypatch, 12)
    code, text = screen(capsys)
    assert code == 0 and "the default model can run here" in text
    assert len(text.splitlines()) <= 30 and max(map(len, text.splitlines())) <= 80


def test_the_precision_and_its_minutes_follow_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, minutes in ((["avx", "avx2"], "30"), (["avx2", "avx512_bf16"], "15")):
        monkeypatch.setattr(precision, "instruction_sets", lambda flags=flags: flags)
        monkeypatch.setattr(doctor.psutil, "cpu_count", lambda: 2)
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
    reason = "does not import: libnuma.so.1: cannot open shared object file"
    monkeypatch.setattr(doctor, "_importable", lambda name, seconds: reason)
    assert "libnuma1 on Debian" in doctor.vllm().remedy


def test_keys_are_named_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("HF_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "planted-secret")
    _, text = screen(capsys)
    assert "planted-secret" not in text and text.count(": yes") == 3


def test_a_gpu_large_enough_runs_the_large_models(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = {"name": "a card", "memory_gib": 80.0, "compute_capability": "9.0"}
    monkeypatch.setattr(precision, "gpus", lambda: [gpu])
    monkeypatch.setattr(precision, "cuda_capability", lambda: None)
    assert doctor.models([])[-1].found.startswith("fit: ")
    assert "BACKEND=cuda" in doctor.graphics().remedy, "a CPU build of torch beside a GPU"
