"""What `make plan` prints, and that printing it needs no torch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import initialize_config_dir

from pipeline.store import Store
from tests.planning import experiment, fill, with_similarity

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True, scope="module")
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


@pytest.mark.parametrize("model", ["llama2-7b", "llama3.1-8b", "qwen2-7b", "qwen2.5-7b"])
def test_the_plan_of_a_paper_model(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stages, ids, revisions and download sizes; nothing is written."""
    from rich.console import Console

    from pipeline import overview

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "none"))
    monkeypatch.setattr("safemerge.hub.reachable", lambda **_: False)
    x = experiment(model=model)
    overview.show(x, Store(tmp_path / "store"), Console(width=200))
    said = capsys.readouterr().out
    for member in (x.config.model.base, x.config.model.aligned):
        assert f"{member.id} @ {member.revision}" in said
        assert f"{member.id} @ {str(member.revision)[:8]}  {member.download_gb:.1f} GB" in said
    for stage in x.config.stages:
        assert stage in said
    guard = x.config.judge["llama_guard_3_8b"]
    in_all = x.config.model.base.download_gb + x.config.model.aligned.download_gb + guard.download_gb
    assert f"download in all: {in_all:.1f} GB" in said
    assert "missing here" in said and "GPU" in said
    assert not list(tmp_path.iterdir())


def test_printing_the_plan_imports_no_torch(tmp_path: Path) -> None:
    program = (
        "import runpy, sys\n"
        "sys.argv = ['pipeline', 'model=llama3.1-8b', 'dry_run=true']\n"
        "try:\n    runpy.run_module('pipeline', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as left:\n    assert not left.code, left.code\n"
        "print('LOADED', [m for m in ('torch', 'transformers', 'vllm', 'trl', 'peft', 'wandb') if m in sys.modules])"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "none"),
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "LOADED []" in done.stdout, done.stdout[-500:] + done.stderr[-500:]
    assert not list(tmp_path.iterdir())


def test_the_plan_counts_what_is_cached(tmp_path: Path) -> None:
    from pipeline.overview import _count, steps_by_stage

    x, store = experiment(), Store(tmp_path)
    prepare = steps_by_stage(x, store)["prepare"]
    assert _count(store, prepare).startswith("0 of ")
    fill(store, x.base)
    assert _count(store, prepare).startswith("1 of ")
    assert "merge" not in steps_by_stage(x, store)
    with_similarity(x, store, [0.1, 0.4])
    known = steps_by_stage(x, store)
    assert known["merge"] and known["generate"] and known["judge"]
