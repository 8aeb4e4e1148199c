"""Nothing that a worker imports tells a hub, or whatever `HF_ENDPOINT` names, that it was used."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from pipeline import store as store_module
from pipeline.run import Runner
from pipeline.store import Step, Store

STAGE = """
from huggingface_hub.constants import HF_HUB_DISABLE_TELEMETRY

def run(jobs):
    for job in jobs:
        with job.finishing():
            (job.output / "told").write_text("nothing" if HF_HUB_DISABLE_TELEMETRY else "the hub")
"""


def test_workers_send_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fake_stage import install

    path = install(tmp_path)
    (tmp_path / "extra" / "fake_stage.py").write_text(STAGE)
    monkeypatch.setenv("PYTHONPATH", path)
    for name in ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_OFFLINE", "DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(store_module.VERSIONS, "fake_stage", 1)
    monkeypatch.setattr("pipeline.run.cuda_capability", lambda: None)
    step = Step("fake_stage", "one", {"do": "one"})
    with Runner(Store(tmp_path / "store"), Console(file=io.StringIO())) as runner:
        runner.ensure("fake", [step])
    assert (runner.store.path(step) / "told").read_text() == "nothing"
