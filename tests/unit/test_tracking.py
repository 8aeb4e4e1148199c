"""Tracking is a copy: it never asks for a login, never uploads completions unasked, and never fails a run."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from rich.console import Console

from evaluation.long_form import COLUMNS, ResultRow
from evaluation.run_file import Cost
from pipeline import tracking
from pipeline.artifacts import ADAPTER, COMPLETIONS, LOG
from pipeline.config import check
from pipeline.settings import Config
from pipeline.store import MANIFEST, Step
from pipeline.tracking import Tracker, decide_mode
from tests.fake_wandb import stand_in

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key anywhere."""
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture(scope="module")
def base_config() -> Iterator[Config]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield check(compose("config", ["model=tiny"]))


@pytest.fixture
def config(base_config: Config, tmp_path: Path) -> Config:
    changed = base_config.tracking.model_copy(update={"dir": str(tmp_path / "tracking")})
    return base_config.model_copy(update={"tracking": changed})


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.setitem(sys.modules, "wandb", fake := stand_in())
    return fake


def artifact(folder: Path, stage: str) -> Step:
    folder.mkdir()
    manifest = {"settings": {"seed": 3}, "wall_s": 1.5, "peak_memory_bytes": 10}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    if stage == "finetune":
        (folder / ADAPTER).write_text("{}")
        rows = [{"step": s, "loss": 2.0 / s, "note": "text"} for s in (1, 2)]
        (folder / LOG).write_text("".join(json.dumps(r) + "\n" for r in rows))
    else:
        (folder / COMPLETIONS).write_text('{"id": "1", "completion": "harmful"}\n')
    return Step(stage, "task LoRA", {"seed": 3})


def row(label: str, value: float) -> ResultRow:
    """A row of the results, of a method without tau or alpha."""
    return ResultRow(
        model="tiny",
        task="gsm8k",
        method="resta",
        tau=None,
        alpha=None,
        combine=None,
        seed=0,
        split="test",
        metric="harm",
        k=round(value * 10),
        n=10,
        value=value,
        ci_low=0.0,
        ci_high=1.0,
        invalid=0,
        merged_modules=2,
        modules=4,
        benchmark="directharm",
        label=label,
        tau_setting=None,
    )


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


@pytest.mark.parametrize(
    ("mode", "key", "variable", "expected", "said"),
    [
        ("auto", False, None, "offline", ""),
        ("auto", True, None, "online", ""),
        ("auto", True, "online", "online", ""),
        ("auto", True, "run", "online", ""),
        ("auto", True, "offline", "offline", "WANDB_MODE=offline; `wandb sync`"),
        ("auto", False, "dryrun", "offline", "WANDB_MODE=dryrun; `wandb sync`"),
        ("auto", True, "disabled", "disabled", "tracking off: WANDB_MODE=disabled"),
        (
            "auto",
            True,
            "never",
            "disabled",
            "off: WANDB_MODE=never, which is none of online, offline and disabled",
        ),
        ("auto", False, "online", "offline", "WANDB_MODE=online, but there is no key: set WANDB_API_KEY"),
        ("online", False, None, "offline", "tracking.mode=online, but there is no key: set WANDB_API_KEY"),
        ("online", True, "disabled", "online", ""),
        ("offline", True, None, "offline", ""),
    ],
)
def test_the_mode_and_what_is_said_of_it(
    mode: str, key: bool, variable: str | None, expected: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """wandb.init(mode="online") without a key would ask for a login on a terminal."""
    if key:
        monkeypatch.setenv("WANDB_API_KEY", "x")
    if variable:
        monkeypatch.setenv("WANDB_MODE", variable)
    found, line = decide_mode(mode)
    assert found == expected and (said in line if said else not line) and "\n" not in line


def test_disabled_starts_nothing_and_says_so_once(
    config: Config, wandb: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    console = quiet()
    tracker = Tracker(config, "run", console)
    for name in ("a", "b"):
        tracker.step(artifact(tmp_path / name, "finetune"), tmp_path / name)
    tracker.finish()
    assert wandb.asked == {} and not (tmp_path / "tracking").exists()
    assert console.file.getvalue() == "tracking off: WANDB_MODE=disabled\n"  # type: ignore[attr-defined]


def test_a_key_in_netrc_counts(tmp_path: Path) -> None:
    assert not tracking.has_key()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password x\n")
    assert tracking.has_key()


def test_settings_curve_and_adapter_are_logged(
    config: Config, wandb: SimpleNamespace, tmp_path: Path
) -> None:
    tracker = Tracker(config, "run", quiet())
    tracker.step(artifact(tmp_path / "a", "finetune"), tmp_path / "a")
    run = wandb.run
    assert run.settings == {"finetune/task_LoRA": {"seed": 3}}
    assert run.summary["finetune/task_LoRA/wall_s"] == 1.5
    assert [row["finetune/task_LoRA/loss"] for row in run.logged] == [2.0, 1.0]
    assert not any("note" in key for row in run.logged for key in row)
    assert [a.type for a in run.artifacts] == ["adapter"] and "adapter_config.json" in run.artifacts[0].files
    assert wandb.asked["mode"] == "offline" and wandb.asked["group"] == "tiny-gsm8k-bundled"
    assert wandb.asked["config"]["judge"]["refusal"]["_target_"]
    tracker.finish(1)
    assert run.code == 1


@pytest.mark.parametrize("asked", [False, True])
def test_completions_stay_here_unless_asked_for(
    asked: bool, config: Config, wandb: SimpleNamespace, tmp_path: Path
) -> None:
    if asked:
        config.tracking.log_completions = True
    tracker = Tracker(config, "run", quiet())
    tracker.step(artifact(tmp_path / "a", "generate"), tmp_path / "a")
    assert [a.type for a in wandb.run.artifacts] == (["completions"] if asked else [])
    config.tracking.log_completions = False


def test_adapters_stay_here_if_asked(config: Config, wandb: SimpleNamespace, tmp_path: Path) -> None:
    config.tracking.log_adapters = False
    Tracker(config, "run", quiet()).step(artifact(tmp_path / "a", "finetune"), tmp_path / "a")
    assert wandb.run.artifacts == []


def test_results_and_figures(config: Config, wandb: SimpleNamespace) -> None:
    Tracker(config, "run", quiet()).report([row("a", 0.5), row("b", 0.1)], [Path("p.png"), Path("p.svg")])
    table = wandb.run.logged[0]["report/results"]
    assert table["columns"] == list(COLUMNS)
    found = [dict(zip(COLUMNS, cells, strict=True)) for cells in table["data"]]
    assert [(its["label"], its["value"], its["k"]) for its in found] == [("a", 0.5, 5), ("b", 0.1, 1)]
    assert found[0] == asdict(row("a", 0.5))
    assert wandb.run.logged[1:] == [{"report/p": "p.png"}]


def test_costs(config: Config, wandb: SimpleNamespace) -> None:
    spent = Cost(title="merging", made=2, found=1, wall_s=1.5, cpu_s=3.0, tokens=None, peak_memory_bytes=7)
    Tracker(config, "run", quiet()).report([], [], [spent])
    assert wandb.run.logged[0]["report/costs"] == {
        "columns": ["title", "made", "found", "wall_s", "cpu_s", "tokens", "peak_memory_bytes"],
        "data": [["merging", 2, 1, 1.5, 3.0, None, 7]],
    }


@pytest.mark.parametrize("broken", ["init", "import", "log"])
def test_a_broken_tracker_never_fails_a_run(
    broken: str, config: Config, wandb: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: Any, **options: Any) -> None:
        raise ConnectionError("no\nnetwork")

    if broken == "init":
        wandb.init = fails
    elif broken == "import":
        monkeypatch.setitem(sys.modules, "wandb", None)
    else:
        wandb.run.log = fails
    console = quiet()
    tracker = Tracker(config, "run", console)
    made = artifact(tmp_path / "a", "finetune")
    for _ in range(3):
        tracker.step(made, tmp_path / "a")
    tracker.report([row("a", 0.5)], [])
    tracker.finish()
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert said.count("tracking off") == 1, "once is enough"


def test_off_never_touches_wandb(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    off = config.model_copy(update={"tracking": config.tracking.model_copy(update={"backend": "off"})})
    console = quiet()
    tracker = Tracker(off, "run", console)
    tracker.step(artifact(tmp_path / "a", "finetune"), tmp_path / "a")
    tracker.report([], [])
    tracker.finish()
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]
    assert not (tmp_path / "tracking").exists()


def test_a_run_that_found_everything_starts_no_tracking(config: Config, wandb: SimpleNamespace) -> None:
    Tracker(config, "run", quiet()).finish()
    assert wandb.asked == {}


@pytest.mark.slow
def test_an_offline_run_of_the_real_wandb(config: Config, tmp_path: Path) -> None:
    """Without network or key: nothing asked, files on disk for `wandb sync`."""
    pytest.importorskip("wandb")
    console = quiet()
    tracker = Tracker(config, "a run", console)
    tracker.step(artifact(tmp_path / "a", "finetune"), tmp_path / "a")
    tracker.report([row("a", 0.5), replace(row("b", 0.1), tau=0.7, tau_setting="q0.5")], [])
    assert tracker.run is not None and not tracker.broken, console.file.getvalue()  # type: ignore[attr-defined]
    tracker.finish()
    runs = list((tmp_path / "tracking" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(runs) == 1
    # On a busy machine W&B's own process writes the file out a moment after `finish`.
    end = time.monotonic() + 30
    while b"task_LoRA" not in runs[0].read_bytes() and time.monotonic() < end:
        time.sleep(0.1)
    assert b"task_LoRA" in runs[0].read_bytes()
