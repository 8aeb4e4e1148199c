"""A multirun goes on after a failed or killed job, names the failed ones at the end, and exits 2 if all are the user's."""

from __future__ import annotations

import importlib.util
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import MissingConfigException
from rich.console import Console

from hydra_plugins.safemerge_sweeper import Patient, submitit_goes_on
from pipeline.__main__ import ended
from pipeline.mistakes import one_line
from pipeline.multirun import DIED, Outcome, told
from pipeline.run import StageError
from safemerge.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def test_the_jobs_after_a_failed_one_run_and_it_is_named_at_the_end(tmp_path: Path) -> None:
    folders = [f"store={tmp_path}/store", f"runs={tmp_path}/runs", f"hydra.sweep.dir={tmp_path}/multirun"]
    overrides = ["model=tiny", "seed=3,4", "train.lora.r=0,8", "dry_run=true", "tracking=off"]
    command = [sys.executable, "-m", "pipeline", "-m", *overrides, *folders]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert done.stdout.count("finetune") == 2, "the plans of the two sound jobs"
    reason = "train.lora.r=0: input should be greater than or equal to 1"
    assert done.stderr.splitlines() == [
        f"error: {reason}",
        f"error: {reason}",
        "2 of 4 jobs failed; rerun the same command to resume:",
        f"  seed=3 train.lora.r=0: {reason}",
        f"  seed=4 train.lora.r=0: {reason}",
    ]


def test_a_launcher_is_not_taken_in_silence_by_a_single_run(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pipeline",
        "model=tiny",
        "launcher=joblib",
        "dry_run=true",
        f"store={tmp_path}",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    line = (
        "error: launcher=joblib starts the jobs of a multirun, and this is one run: add -m, or leave it out"
    )
    assert (done.returncode, done.stderr.strip(), done.stdout) == (2, line, "")


def outcome_of(error: BaseException) -> Outcome:
    def raises() -> None:
        raise error

    return ended(raises, others=True)


def test_what_a_job_comes_back_with(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(lambda: None) == Outcome()
    assert outcome_of(UserError("rows=0 is too few")) == Outcome(2, "rows=0 is too few")
    assert outcome_of(StageError("judge failed; its log is x")) == Outcome(1, "judge failed; its log is x")
    capsys.readouterr()
    assert outcome_of(KeyError("an error\nof ours")) == Outcome(1, "KeyError: 'an error\\nof ours'")
    assert "Traceback" in capsys.readouterr().err, "for whoever mends it"
    with pytest.raises(KeyError):
        ended(lambda: {}["alone"])


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ([Outcome(), Outcome(), Outcome()], 0),
        ([Outcome(), Outcome(2, "a typo"), Outcome(2, "another")], 2),
        ([Outcome(1, "a crash"), Outcome(), Outcome(2, "a typo")], 1),
    ],
)
def test_what_is_said_at_the_end(outcomes: list[Outcome], code: int) -> None:
    jobs = [["model=tiny", f"seed={seed}"] for seed in range(3)]
    console = Console(file=io.StringIO(), width=200)
    assert told(jobs, outcomes, console) == code
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    failed = [(seed, its) for seed, its in enumerate(outcomes) if its.code]
    assert lines[1:] == [f"  seed={seed}: {its.reason}" for seed, its in failed]
    assert not failed or lines[0].startswith(f"{len(failed)} of 3 jobs failed")


def test_a_single_job_is_named_by_all_it_was_given() -> None:
    console = Console(file=io.StringIO(), width=200)
    assert told([["model=tiny", "seed=1"]], [Outcome(1, "x")], console) == 1
    assert "  model=tiny seed=1: x" in console.file.getvalue()  # type: ignore[attr-defined]


class Pool:
    """A launcher like joblib's: when a process of its is killed, all beside it end, and nobody knows whose job it had."""

    def __init__(self, kills: Callable[[str, int], bool]) -> None:
        self.kills, self.launched = kills, list[list[str]]()

    def launch(self, jobs: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        self.launched.append([job[0] for job in jobs])
        if any(self.kills(job[0], len(self.launched)) for job in jobs):
            raise BrokenProcessPool("a process was terminated abruptly")
        return [JobReturn(status=JobStatus.COMPLETED, _return_value=Outcome()) for _ in jobs]


def codes(pool: Pool) -> list[int]:
    found = Patient(pool).launch([["a"], ["b"], ["c"]], 5)  # type: ignore[arg-type]
    return [its.return_value.code for its in found]


def test_after_a_lost_process_the_batch_is_started_again() -> None:
    pool = Pool(lambda job, launch: launch == 1)
    assert codes(pool) == [0, 0, 0] and pool.launched == [["a", "b", "c"]] * 2


def test_a_job_that_always_dies_is_found_and_the_others_are_done() -> None:
    pool = Pool(lambda job, launch: job == "b")
    assert codes(pool) == [0, 1, 0] and pool.launched[2:] == [["a"], ["b"], ["c"]]


def dies_at_zero(number: int) -> Outcome:
    if number == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return Outcome(0, str(number))


@pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None,
    reason="submitit is not installed: pip install '.[launchers]'",
)
def test_a_killed_job_of_submitits_leaves_an_outcome_and_the_next_one_its_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import submitit

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(Path(__file__).parent)]))
    executor = submitit.LocalExecutor(tmp_path)
    jobs = executor.map_array(dies_at_zero, [0, 1])
    with submitit_goes_on():
        found = [job.results()[0] for job in jobs]
    assert found[0].return_value == Outcome(1, DIED) and found[1] == Outcome(0, "1")


def test_a_launcher_without_its_plugin_is_one_line() -> None:
    for name, extra in (("ray", "ray"), ("joblib", "launchers")):
        error = MissingConfigException(
            f"In 'launcher/{name}': Could not find 'hydra/launcher/{name}'\n\nAvailable"
        )
        assert one_line(error).endswith(
            f"its plugin is not installed; run .venv/bin/pip install '.[{extra}]'"
        )
