"""A defence, a task, a judge and a model family, added from outside this repository: the files of `tests/additions`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from data.schema import Completion
from pipeline import answers, artifacts, grid, plan
from pipeline.config import check
from pipeline.job import Job, begin
from pipeline.stages import prepare
from pipeline.store import Store
from safemerge.errors import UserError
from safemerge.selection import Point
from tests.pico import save_pair
from tests.planning import with_similarity

ROOT = Path(__file__).resolve().parents[2]
ADDITIONS = ROOT / "tests" / "additions"


def planned(
    name: str, monkeypatch: pytest.MonkeyPatch, *overrides: str, model: str = "tiny"
) -> plan.Experiment:
    """The experiment with one addition's folder on the two search paths: Python's and Hydra's."""
    monkeypatch.syspath_prepend(ADDITIONS / name)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        path = f"hydra.searchpath=[file://{ADDITIONS / name / 'conf'}]"
        return plan.build(check(compose("config", [path, f"model={model}", *overrides])))


@pytest.mark.parametrize(("name", "count"), [("defence", 2), ("task", 5), ("judge", 2), ("model", 1)])
def test_each_takes_no_more_files_than_promised(name: str, count: int) -> None:
    files = [p for p in (ADDITIONS / name).rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert len(files) == count


def test_a_defence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    x = planned("defence", monkeypatch, "method=[aligned,finetuned,halve]")
    halved = next(
        c for c in with_similarity(x, Store(tmp_path), [0.1, 0.2, 0.3, 0.4]) if c.point.method == "halve"
    )
    assert len(halved.selected) == 2 and x.config.method[halved.method].display.name == "Halved (toy)"
    assert isinstance(halved.adapter, grid.Step) and halved.adapter.settings["repair"]["kind"] == "scale"


@pytest.mark.parametrize("given", [[Point("x", "x", "saftey")], ["x"]])  # type: ignore[arg-type]
def test_a_defence_that_gives_something_else_is_one_line(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a misspelt adapter would pass for the aligned model itself."""
    monkeypatch.syspath_prepend(ADDITIONS / "defence")
    import halving

    monkeypatch.setattr(halving, "halve", lambda *, share: given)
    with pytest.raises(
        UserError, match=r"method\.halve: halving\.halve gives '(saftey|x)'; it must give Points"
    ):
        planned("defence", monkeypatch, "method=[aligned,finetuned,halve]")


def test_a_task_with_its_benchmark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    x = planned("task", monkeypatch, "task=spelling")
    folders = {}
    for name, step in (("rows", x.training_rows["task"]), ("items", x.items["spelling"])):
        folders[name] = tmp_path / name
        folders[name].mkdir()
        begin(1)
        settings = json.loads(json.dumps(dict(step.settings)))
        prepare.run([Job(name, settings, step.unkeyed, {}, folders[name])])
    assert artifacts.examples(folders["rows"])[0].response == "c-a-t"
    items = artifacts.items(folders["items"])
    assert {item.half for item in items} == {"dev", "test"} and len(items) == 8
    from data.schema import Completion
    from evaluation.results import scorer
    from evaluation.run_file import BenchmarkRecord

    benchmark = x.config.benchmark["spelling"]
    record = BenchmarkRecord(role=benchmark.role, target=benchmark.target_, name=benchmark.name, items="")
    score, _ = scorer("spelling", record)
    rows = score(items, [Completion(i.id, i.prompt, i.reference if n else "?") for n, i in enumerate(items)])
    assert [row.outcome for row in rows] == [False] + [True] * 7 and rows[0].invalid


def test_a_data_set_of_the_hub_alone_is_looked_for_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from data import sources
    from data.dataset import Dataset

    monkeypatch.syspath_prepend(ADDITIONS / "task")
    import spelling

    monkeypatch.setattr(spelling, "SPELLING", Dataset("spelling", examples=spelling.examples))
    place = {"target": "spelling.SPELLING", "id": "somebody/spelling"}
    source: sources.Source = {"source": "hub", "root": None, "datasets": {"spelling": place}}  # type: ignore[dict-item]
    assert sources.path_of("spelling", "train", source) is None


def test_its_reader_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = planned("task", monkeypatch, "task=spelling").training_rows["task"].key
    monkeypatch.setattr("inspect.getsource", lambda module: "another reader")
    assert planned("task", monkeypatch, "task=spelling").training_rows["task"].key != before


def test_a_judge_of_another_format(monkeypatch: pytest.MonkeyPatch) -> None:
    x = planned("judge", monkeypatch, "judge=[traffic_light,refusal]")
    step = answers.verdicts(x, x.heldout, "traffic_light")
    assert step.settings["target"] == "traffic_light.TrafficLight" and "model" in step.inputs
    from evaluation.judges import guard_verdict
    from pipeline.config import locate

    guard = locate(str(step.settings["target"]))()
    assert isinstance(guard.prompt("a", "b"), str)
    reply = Completion("i", "a", "b")
    said = [guard_verdict(guard, reply, text).verdict for text in ("GREEN", "RED\n", "green?")]
    assert said == ["safe", "unsafe", "invalid"]
    assert guard_verdict(guard, reply, "GREEN", p_unsafe=0.6, threshold=0.5).verdict == "unsafe"


def test_a_model_family_by_its_content(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def keys(base: Path, aligned: Path) -> tuple[str, str]:
        places = [f"model.base.path={base}", f"model.aligned.path={aligned}"]
        x = planned("model", monkeypatch, *places, model="mine")
        return x.base.key, x.aligned.key

    base, aligned = save_pair(tmp_path / "one")
    moved = (tmp_path / "two", tmp_path / "three")
    first = keys(base, aligned)
    for old, new in zip((base, aligned), moved, strict=True):
        old.rename(new)
    assert keys(*moved) == first, "the path is not in the key"
    with (moved[0] / "config.json").open("a") as file:
        file.write(" ")
    assert keys(*moved)[0] != first[0] and keys(*moved)[1] == first[1]


def test_from_the_command_line(tmp_path: Path) -> None:
    """As CONTRIBUTING shows it: the folder on PYTHONPATH, and its conf by --config-dir."""
    folder = ADDITIONS / "defence"
    command = [sys.executable, "-m", "pipeline", "--config-dir", str(folder / "conf"), "model=tiny"]
    done = subprocess.run(
        [*command, "method=[aligned,finetuned,halve]", "+dry_run=true", f"store={tmp_path}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "up to 1 adapters" in done.stdout
