"""The harness of `make faults`, in small: runs of a fake stage, killed on their way; and the faults it is there to find."""

from __future__ import annotations

import os
import random
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from tests.fake_stage import install
from tests.promises import fuzzing, kills, sharing
from tests.promises.determinism import by_stage
from tests.promises.runs import ROOT, Place, differing, left, outliving, unsound

RUN = """
import sys
from pathlib import Path
from rich.console import Console
from pipeline import run, store
from pipeline.__main__ import guarded
store.VERSIONS["fake_stage"] = 1
run.cuda_capability = lambda: None
root, fault = Path(sys.argv[1]), sys.argv[2]
steps = [store.Step("fake_stage", f"{n}", {"number": n, "fault": fault}) for n in range(3)]
def make():
    with run.Runner(store.Store(root), Console(force_terminal=False), folder=root.parent / "runs" / "x") as runner:
        for step in steps:
            runner.ensure("fake", [step])
        print(f"{len(runner.made)} artifacts made, {runner.cached} found in the store")
sys.exit(guarded(make))
"""
#: Rows one by one, as generation makes them, with a fault if the settings name one.
STAGE = """
import json, subprocess, sys, time
from pipeline import partial_rows

def run(jobs):
    for job in jobs:
        fault = job.settings["fault"]
        with job.finishing():
            done = partial_rows.finished(job.output)
            if fault == "orphan" and job.settings["number"] == 1 and not done:
                sleep = "import time; time.sleep(60)"
                subprocess.run([sys.executable, "-c", "import subprocess, sys; subprocess.Popen([sys.executable, '-c', "
                    f"{sleep!r}], start_new_session=True)"])
            with partial_rows.appending(job.output) as stream:
                for n in range(len(done), 12):
                    time.sleep(0.02)
                    row = {"n": n, "made": time.time() if fault == "time" else 0}
                    partial_rows.add(stream, row)
            rows = partial_rows.finished(job.output)
            (job.output / "rows.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
            partial_rows.remove(job.output)
"""


@dataclass(frozen=True)
class Fake(Place):
    """A run of the fake stage. `kind` is the fault."""

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-c", RUN, str(self.store), self.kind]

    @property
    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": os.pathsep.join([str(self.folder.parent / "extra"), str(ROOT)])}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder above those of the runs."""
    folder = tmp_path_factory.mktemp("runs")
    install(folder)
    (folder / "extra" / "fake_stage.py").write_text(STAGE)
    return folder


@pytest.fixture(scope="module")
def whole(stage: Path) -> Fake:
    """A run that nobody disturbed."""
    place = Fake(stage / "undisturbed", "none")
    assert {"start", "fake_stage"} <= kills.undisturbed(place).keys()
    return place


PLACES = ("start", "fake_stage", "fake_stage", "fake_stage", "fake_stage")
SOON = {"start": 1.0, "fake_stage": 0.3}  # so that no attempt comes to its end before it is killed


def test_a_killed_run_ends_as_an_undisturbed_one(stage: Path, whole: Fake) -> None:
    life, saved = kills.Life("life", "none"), []
    draw = random.Random("b")
    kills.live(
        life, Fake(stage / "killed", "none"), PLACES, SOON, whole.results(), draw, lambda: saved.append(1)
    )
    # On a busy machine the run may come to its end before its turn to be killed again.
    assert life.finished and 2 <= len(life.kills) <= len(PLACES) and len(saved) == len(life.kills) + 1
    assert {kill.target for kill in life.kills} <= {"main", "worker"}
    assert {kill.signal for kill in life.kills} <= {"SIGKILL", "SIGTERM"}
    assert [kill.problems for kill in life.kills] == [[]] * len(life.kills) and life.problems == []
    assert life.differing == []


def test_a_life_goes_on_where_a_call_of_the_harness_ended(stage: Path, whole: Fake) -> None:
    before = [kills.Kill("start", "main", "SIGKILL", "start", 0, -9, 0)] * (len(PLACES) - 1)
    life = kills.Life("life", "none", before)
    kills.live(
        life, Fake(stage / "on", "none"), PLACES, SOON, whole.results(), random.Random("d"), lambda: None
    )
    assert life.finished and len(life.kills) == len(PLACES) and life.differing == []


def test_results_that_depend_on_the_interruption_are_found(stage: Path) -> None:
    """And what a run leaves in the store besides its results."""
    first, second = Fake(stage / "first", "time"), Fake(stage / "second", "time")
    kills.undisturbed(first)
    life = kills.Life("life", "time")
    kills.live(life, second, (), SOON, first.results(), random.Random("c"), lambda: None)
    assert len(life.differing) == 3 and all(name.endswith("rows.jsonl") for name in life.differing)
    assert life.problems == []


def test_a_process_that_outlives_its_run_is_found_and_ended(
    stage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that took a session of its own, and whose parent is gone."""
    monkeypatch.setattr("tests.promises.runs.GONE_S", 3.0)
    place = Fake(stage / "orphan", "orphan")
    assert place.start().wait(timeout=60) == 0
    names, _ = outliving(place)
    assert len(names) == 1 and "time.sleep(60)" in names[0]
    assert outliving(place)[0] == []


def test_what_is_wrong_with_a_store_is_found(stage: Path, whole: Fake) -> None:
    place = Fake(stage / "damaged", "none")
    shutil.copytree(whole.folder, place.folder)
    assert unsound(place) == left(place) == []
    folder = place.artifacts()[0]
    (folder / "rows.jsonl").write_text("cut")
    (place.store / "fake_stage" / ("0" * 20 + ".partial")).mkdir()
    (place.store / "fake_stage" / ("0" * 20 + ".lock")).touch()
    (place.store / "fake_stage" / ("1" * 20)).mkdir()
    found = unsound(place)
    assert len(found) == 2 and "no manifest" in found[0] and "3 bytes instead of" in found[1]
    assert len(left(place)) == 1, "a lock that nobody holds is none"
    with FileLock(place.store / "fake_stage" / ("0" * 20 + ".lock")):
        assert "is still held" in unsound(place)[-1]


@pytest.mark.parametrize("kill_in", [None, "fake_stage"])
def test_four_processes_share_a_store(stage: Path, whole: Fake, kill_in: str | None) -> None:
    found = sharing.shared(Fake(stage / f"shared {kill_in}", "none"), whole.results(), kill_in=kill_in)
    assert found.problems == [] and found.differing == [] and found.artifacts == 3
    assert len(found.made) == (4 if kill_in is None else 3)


def test_what_differs_is_counted_by_stage() -> None:
    first = {"store/merge/k/a": "1", "store/merge/k/b": "2", "runs/x/report/results.csv": "3"}
    second = {**first, "store/merge/k/b": "4", "store/judge/k/c": "5"}
    assert differing(first, second) == ["store/judge/k/c", "store/merge/k/b"]
    assert by_stage(first, second) == {
        "merge": {"files": 2, "equal": 1, "others": ["b"]},
        "judge": {"files": 1, "equal": 0, "others": ["c"]},
        "report": {"files": 1, "equal": 1, "others": []},
    }


def test_every_fuzz_test_is_counted() -> None:
    assert sum(map(len, fuzzing.tests().values())) >= 15
    text = """tests/unit/test_x.py::test_a:

    - 300 passing, 2 failing, and 7 invalid test cases
    - 4 passing, 0 failing, and 1 invalid test cases
  tests/unit/test_x.py::test_b:
    - 5 passing, 0 failing, and 0 invalid test cases"""
    assert fuzzing.counted(text) == {"test_a": 306, "test_b": 5}


def test_fuzz_tests_are_run_and_what_they_tried_is_counted(tmp_path: Path) -> None:
    file, names = fuzzing.FILES[1], ["test_any_answer_of_a_guard", "test_nothing"]
    found = fuzzing.run(file, names[:1], 70, 0, tmp_path)
    assert found == {names[0]: {"inputs": 70, "failed": ""}}
    assert "see " in fuzzing.run(file, names, 70, 0, tmp_path)["test_nothing"]["failed"]
