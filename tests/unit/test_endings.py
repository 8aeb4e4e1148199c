"""However the main process ends, all that it started ends with it, and the next run goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline import store as store_module
from pipeline.__main__ import guarded
from pipeline.processes import alive
from pipeline.store import Step, Store
from safemerge.errors import UserError
from tests.fake_stage import install

ROOT = Path(__file__).resolve().parents[2]
RUN = """
import sys
from pathlib import Path
from rich.console import Console
from pipeline import run, store
from pipeline.__main__ import guarded
from pipeline.unkeyed import Share
store.VERSIONS["fake_stage"] = 1
run.cuda_capability = lambda: None
do, devices = sys.argv[2], int(sys.argv[3])
share = Share(devices, 1, 1)
steps = [store.Step("fake_stage", d, {"do": d}, {}, share) for d in ("one", do)]
def make():
    with run.Runner(store.Store(Path(sys.argv[1])), Console()) as runner:
        runner.ensure("fake", steps)
sys.exit(guarded(make))
"""
WORD = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}


class Run:
    """A main process with a fake stage, started by a shell."""

    def __init__(self, folder: Path, do: str, before: str = "", devices: int = 1) -> None:
        self.store, self.do = Store(folder / "store"), do
        self.first, self.second = (Step("fake_stage", d, {"do": d}) for d in ("one", do))
        self.devices, self.folder = devices, folder
        self.path = install(folder)
        self.process = self.start(before)

    def start(self, before: str = "") -> subprocess.Popen[str]:
        """The main process; the shell makes way for it."""
        arguments = [sys.executable, "-c", RUN, str(self.store.root), self.do, str(self.devices)]
        return subprocess.Popen(
            ["sh", "-c", f'{before} exec "$@"', "sh", *arguments],
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.folder), "PYTHONPATH": self.path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def processes(self) -> list[psutil.Process]:
        """The worker and its children, once they run."""
        folder = self.store.partial(self.second)
        names = [f"pids{rank}" for rank in range(self.devices)] if self.devices > 1 else ["pids"]
        deadline = time.monotonic() + 60
        while (
            not all((folder / name).exists() for name in names)
            and self.process.poll() is None
            and time.monotonic() < deadline
        ):
            time.sleep(0.05)
        if not all((folder / name).exists() for name in names):
            self.process.kill()
            pytest.fail("".join(self.process.communicate()))
        main = psutil.Process(self.process.pid)
        members = {p.pid: p for p in main.children(recursive=True)}
        assert {pid for name in names for pid in json.loads((folder / name).read_text())} <= set(members)
        return list(members.values())

    def finish(self) -> None:
        """The same command once more must go on and succeed."""
        again = self.start()
        out, err = again.communicate(timeout=60)
        assert again.returncode == 0, out + err
        assert self.store.has(self.first) and self.store.has(self.second)
        assert (self.store.path(self.first) / "attempts").read_text() == "x", "finished work was kept"


Start = Callable[..., Run]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a run; one that a failed test leaves behind is killed."""
    monkeypatch.setitem(store_module.VERSIONS, "fake_stage", 1)
    runs: list[Run] = []

    def function(*arguments: Any, **more: Any) -> Run:
        runs.append(Run(tmp_path, *arguments, **more))
        return runs[-1]

    yield function
    for run in runs:
        run.process.kill()
        run.process.communicate()


def gone(processes: list[psutil.Process], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while any(alive(p) for p in processes) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(alive(p) for p in processes)


@pytest.mark.parametrize("before", ["", "trap '' INT TERM;"], ids=["", "signals ignored"])
@pytest.mark.parametrize("number", WORD, ids=lambda n: n.name)
def test_a_signal_ends_everything_within_ten_seconds(
    number: signal.Signals, before: str, start: Start
) -> None:
    do = "family, burn" if number == signal.SIGTERM else "family"
    if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("these tests run under nohup, where SIGHUP stays ignored")
    run = start(do, before)
    processes = run.processes()
    assert len(processes) == 4
    sent = time.monotonic()
    run.process.send_signal(number)
    out, err = run.process.communicate(timeout=30)
    assert gone(processes, 10 - (time.monotonic() - sent))
    assert time.monotonic() - sent < 10
    assert run.process.returncode == 128 + number, out + err
    assert err.split("\n") == [
        f"{WORD[number]}; finished work is kept; rerun the same command to resume",
        "",
    ]
    run.finish()


@pytest.mark.parametrize("do", ["family", "family, burn"])
def test_workers_do_not_outlive_a_killed_main_process(do: str, start: Start) -> None:
    run = start(do)
    processes = run.processes()
    run.process.kill()
    sent = time.monotonic()
    assert gone(processes), "the limit"
    assert time.monotonic() - sent < 5, "and what is to be expected also where others use the processor"
    run.process.communicate(timeout=10)
    run.finish()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_the_ranks_of_a_launcher_end_too(number: signal.Signals, start: Start) -> None:
    run = start("family", devices=2)
    processes = run.processes()
    assert len(processes) >= 9, "a launcher, two ranks and three children of each"
    run.process.send_signal(number)
    assert gone(processes)
    run.process.communicate(timeout=10)
    assert not run.store.has(run.second)


def test_under_nohup_a_hangup_changes_nothing(start: Start) -> None:
    run = start("family", "trap '' HUP;")
    processes = run.processes()
    run.process.send_signal(signal.SIGHUP)
    time.sleep(1)
    assert run.process.poll() is None and all(alive(p) for p in processes)
    run.process.send_signal(signal.SIGINT)
    run.process.communicate(timeout=30)
    assert run.process.returncode == 130 and gone(processes)


def test_a_second_signal_does_not_wait_for_the_stubborn(start: Start) -> None:
    run = start("family")
    processes = run.processes()
    run.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    sent = time.monotonic()
    run.process.send_signal(signal.SIGTERM)
    run.process.communicate(timeout=30)
    assert gone(processes, 2) and time.monotonic() - sent < 2.5
    assert run.process.returncode == 130, "the first one counts"


LEAD = """
import subprocess, sys, time
from pipeline import endings
endings.follow_main()
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
print(child.pid, child.stdout.readline(), flush=True)
time.sleep(60)
"""
JOB = "from pipeline import endings; import time; endings.follow_main(0.1); print('ready', flush=True); time.sleep(60)"
STRANGER = "import os; os.environ['SAFEMERGE_MAIN_PID'] = '1'; " + JOB


@pytest.mark.parametrize(("job", "follows"), [(JOB, True), (STRANGER, False)], ids=["joblib", "Slurm"])
def test_a_job_of_a_multirun_leaves_with_the_main_process_that_started_it(job: str, follows: bool) -> None:
    """Also when that is killed; a job that somebody else started stays."""
    lead = subprocess.Popen([sys.executable, "-c", LEAD, job], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert lead.stdout is not None
    child = psutil.Process(int(lead.stdout.readline().split()[0]))
    try:
        lead.kill()
        lead.wait()
        assert gone([child], 5.0 if follows else 1.0) is follows
    finally:
        if alive(child):
            child.kill()


@pytest.mark.parametrize("number", list(WORD))
def test_an_error_that_a_signal_has_led_to_is_its_ending(
    number: signal.Signals, request: pytest.FixtureRequest
) -> None:
    """A library that is interrupted in the middle may make an error of it."""
    if number == signal.SIGHUP:  # under nohup it is ignored, and would stay so
        request.addfinalizer(partial(signal.signal, number, signal.signal(number, signal.SIG_DFL)))

    def broken() -> None:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt as error:
            raise UserError("") from error

    assert guarded(broken) == 128 + number
