"""Fixtures on pico models: random Llama and Qwen2 checkpoints of a few thousand weights, with adapters."""

from __future__ import annotations

import copy
import gc
import io
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before torch is imported: tests share few cores with other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from pipeline.run import Runner

# A busy machine is not a failure.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@dataclass(frozen=True)
class Pico:
    """Folders of one experiment: two models, and two adapters trained, so to speak, on the aligned one."""

    family: str
    base: Path
    aligned: Path
    task: Path
    safety: Path


@pytest.fixture(scope="session", params=["llama", "qwen2"])
def pico(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pico:
    """Equal ranks and targets in both adapters."""
    from tests.pico import save_pair, write_lora

    folder = tmp_path_factory.mktemp(request.param)
    base, aligned = save_pair(folder, request.param)
    task = write_lora(folder / "task", rank=4, alpha=8, seed=1, base=str(aligned))
    safety = write_lora(folder / "safety", rank=4, alpha=4, seed=2, base=str(aligned))
    return Pico(request.param, base, aligned, task, safety)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A stage that does what its settings say, found by the worker beside the real ones."""
    from pipeline import store
    from tests.fake_stage import install

    monkeypatch.setenv("PYTHONPATH", install(tmp_path))
    monkeypatch.setitem(store.VERSIONS, "fake_stage", 1)
    monkeypatch.setattr("pipeline.run.cuda_capability", lambda: None)  # also where there is a GPU
    return "fake_stage"


@pytest.fixture
def runner(stage: str, tmp_path: Path) -> Iterator[Runner]:
    """It knows that stage; what it says is `tests.fake_stage.said`."""
    from rich.console import Console

    from pipeline.run import Runner
    from pipeline.store import Store

    with Runner(Store(tmp_path / "store"), Console(file=io.StringIO(), width=200)) as made:
        yield made


def pytest_collection_finish() -> None:
    """What is imported by now stays. statsmodels asks for full collections, which then need not look at it each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def configs_read_once() -> Iterator[None]:
    """Hydra reads and parses every file of conf/ anew for each composition, a third of its time; here it copies them."""
    if "hydra" not in sys.modules:  # no test that was collected composes anything
        yield
        return
    from hydra._internal.config_repository import ConfigRepository

    load, known = ConfigRepository.load_config, dict[tuple[tuple[str, ...], str], Any]()

    def load_config(self: ConfigRepository, config_path: str) -> Any:
        key = tuple(source.full_path() for source in self.sources), config_path
        if key not in known:
            known[key] = load(self, config_path)
        return copy.deepcopy(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigRepository, "load_config", load_config)
        yield


@pytest.fixture(autouse=True, scope="session")
def coarse_figures() -> None:
    """Tests look at whether and of what a figure is drawn; fine ones take twice the time."""
    from evaluation.figures import canvas

    canvas.RC["savefig.dpi"] = 50
