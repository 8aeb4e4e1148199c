"""Carrying out steps: workers that fail, die or are interrupted, and what is kept of their work."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from data.dataset import BUNDLED
from pipeline import display
from pipeline.__main__ import guarded
from pipeline.run import Runner, StageError, sharing
from pipeline.store import Step, Store
from pipeline.unkeyed import Origin, Share, Unkeyed
from pipeline.worker_process import parsed
from safemerge.errors import UserError
from tests.fake_stage import said


def steps(stage: str, *does: str) -> list[Step]:
    return [Step(stage, do, {"do": do}) for do in does]


def test_steps_are_made_once(stage: str, runner: Runner) -> None:
    wanted = steps(stage, "one", "two")
    logged: list[tuple[str, Path]] = []
    runner.on_finish = lambda step, folder: logged.append((step.name, folder))
    runner.ensure("fake", [*wanted, *wanted])
    assert [s.name for s in runner.made] == ["one", "two"] and runner.cached == 0
    assert [(name, folder.exists()) for name, folder in logged] == [("one", True), ("two", True)]
    runner.ensure("fake", wanted)
    assert len(runner.made) == 2 and runner.cached == 2
    manifest = json.loads((runner.store.path(wanted[0]) / "manifest.json").read_text())
    assert manifest["tokens"] is None and manifest["cpu_s"] >= 0
    assert manifest["name"] == "one" and manifest["wall_s"] >= 0 and manifest["peak_memory_bytes"] > 1 << 20


def test_a_worker_reads_the_inputs_from_the_store(stage: str, runner: Runner) -> None:
    source = steps(stage, "one")[0]
    runner.ensure("first", [source])
    reader = Step(stage, "reader", {"do": "read"}, {"source": source})
    runner.ensure("second", [reader])
    assert (runner.store.path(reader) / "copy").read_text() == "one"


def test_an_input_that_no_stage_has_made_is_named(stage: str, runner: Runner) -> None:
    source, other = steps(stage, "one", "other")
    readers = [Step(stage, f"reader {s.name}", {"do": "read"}, {"source": s}) for s in (source, other)]
    with pytest.raises(UserError, match=f"second needs {source.name} .{stage}. and 1 more, not in the store"):
        runner.ensure("second", readers)
    assert not any(runner.store.partial(reader).exists() for reader in readers)


@pytest.mark.parametrize(("do", "reason"), [("crash", "the reason"), ("killed", "exit code -9")])
def test_a_worker_that_dies_names_its_log_and_keeps_what_was_finished(
    do: str, reason: str, stage: str, runner: Runner
) -> None:
    first, dies, last = steps(stage, "one", do, "three")
    with pytest.raises(StageError) as error:
        runner.ensure("fake stage", [first, dies, last])
    message = str(error.value)
    assert "fake stage failed" in message and "rerun the same command" in message
    log = Path(message.partition("its log is ")[2].partition(";")[0])
    assert log.exists(), "the log that the message names is where it says"
    assert reason in message + said(runner)
    assert runner.store.has(first) and not runner.store.has(dies) and not runner.store.has(last)


def test_the_next_run_goes_on_where_the_last_one_failed(stage: str, runner: Runner) -> None:
    first, second = steps(stage, "one", "once")
    with pytest.raises(StageError):
        runner.ensure("fake", [first, second])
    again = Runner(runner.store, runner.console)
    again.ensure("fake", [first, second])
    assert [s.name for s in again.made] == ["once"] and again.cached == 1
    assert (runner.store.path(second) / "attempts").read_text() == "xx", (
        "in the folder that the first attempt left"
    )


def test_bad_input_found_by_a_worker_is_the_users_error(
    stage: str, runner: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = steps(stage, "one", "bad input")
    assert guarded(lambda: runner.ensure("fake", wanted)) == 2
    err = capsys.readouterr().err
    assert err.strip() == "error: rows=0 is too few; give more"
    assert runner.store.has(wanted[0])


def test_a_failed_stage_is_exit_code_1(
    stage: str, runner: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guarded(lambda: runner.ensure("fake", steps(stage, "crash"))) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_an_inline_step_with_bad_input_is_the_users_error(runner: Runner) -> None:
    settings = {"what": "items", "dataset": "directharm", "limit": 0, "fingerprint": ""}
    step = Step("prepare", "prompts", settings, {}, Origin(BUNDLED))
    with pytest.raises(UserError, match="limit=0"):
        runner.ensure("data", [step])
    assert not runner.store.has(step)


def test_inline_steps_need_no_process(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    settings = {"what": "items", "dataset": "directharm", "limit": 8, "fingerprint": ""}
    step = Step("prepare", "prompts", settings, {}, Origin(BUNDLED))
    monkeypatch.setattr("pipeline.provenance.collect", dict)
    runner.ensure("data", [step])
    assert len((runner.store.path(step) / "rows.jsonl").read_text().splitlines()) == 8


def test_noise_among_the_events_does_not_matter() -> None:
    lines = ['{"event": "finished"}', "a library says hello", "[1]", '{"done": 2}', '{"event": "error"}']
    assert [e["event"] for e in parsed(lines)] == ["finished", "error"]


def pids(runner: Runner, wanted: list[Step]) -> list[str]:
    return [(runner.store.path(s) / "pid").read_text() for s in wanted]


def test_stages_share_a_worker_that_starts_each_one_afresh(stage: str, runner: Runner) -> None:
    wanted = steps(stage, "one", "leave traces", "look for traces")
    for step in wanted:
        runner.ensure(step.name, [step])
    assert len(set(pids(runner, wanted))) == 1
    logs = [(runner.store.path(s) / "log.txt").read_text() for s in wanted]
    assert [f"this is {s.name}\n" for s in wanted] == logs, "each has what was printed for it"
    pid = int(pids(runner, wanted)[0])
    assert psutil.pid_exists(pid)
    runner.close()
    assert not psutil.pid_exists(pid)


def test_a_worker_that_failed_is_not_used_again(stage: str, runner: Runner) -> None:
    one, crash, three = wanted = steps(stage, "one", "crash", "three")
    runner.ensure("first", [one])
    with pytest.raises(StageError, match=r"second failed .RuntimeError: the reason."):
        runner.ensure("second", [crash])
    runner.ensure("third", [three])
    assert len(set(pids(runner, [wanted[0], wanted[2]]))) == 2


def test_vllm_has_a_kept_worker_of_its_own(stage: str, runner: Runner) -> None:
    one, two = steps(stage, "one", "two")
    engines = [Step(stage, name, {"do": name, "backend": "vllm"}) for name in ("engine", "engine again")]
    for step in (one, engines[0], two, engines[1]):
        runner.ensure(step.name, [step])
    first, second, third, fourth = pids(runner, [one, *engines, two])
    assert first == fourth != second == third
    runner.close()
    assert not any(psutil.pid_exists(int(pid)) for pid in (first, second))


@pytest.mark.parametrize(
    ("capability", "settings", "devices", "expected"),
    [
        (None, {}, 0, "torch"),
        (None, {"backend": "transformers"}, 1, "torch"),
        (None, {"backend": "vllm"}, 0, "vllm"),
        (None, {}, 2, None),
        ((9, 0), {}, 0, None),
        ((9, 0), {"backend": "vllm"}, 0, None),
    ],
)
def test_which_steps_share_a_worker(
    capability: Any, settings: dict, devices: int, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.run.cuda_capability", lambda: capability)
    unkeyed = Share(devices, 1, 1) if devices else Unkeyed()
    assert sharing([Step("judge", "x", settings, {}, unkeyed)]) == expected


def test_where_a_gpu_must_be_empty_each_stage_has_a_process_that_is_gone_before_the_next(
    stage: str, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.run.cuda_capability", lambda: (9, 0))
    one, two = steps(stage, "one", "two")
    runner.ensure("first", [one])
    assert not psutil.pid_exists(int(pids(runner, [one])[0]))
    runner.ensure("second", [two])
    assert len(set(pids(runner, [one, two]))) == 2


def test_the_ranks_of_a_launcher_report_and_finish(stage: str, runner: Runner) -> None:
    step = Step(stage, "several", {"do": "ranks"}, {}, Share(2, 1, 1))
    runner.ensure("several", [step])
    assert runner.store.has(step) and runner.costs[0].cpu_s > 0
    assert (runner.store.path(step) / "half").exists(), "both ranks were there"
    bad = Step(stage, "bad", {"do": "rank 1 finds bad input"}, {}, Share(2, 1, 1))
    with pytest.raises(UserError, match="rows=1"):
        runner.ensure("several", [bad])


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_leaves_nothing_that_passes_for_finished(
    rank: int, stage: str, runner: Runner
) -> None:
    """The first one died while it was saving; the other would wait for it for ever."""
    step = Step(stage, "dies", {"do": f"rank {rank} is killed"}, {}, Share(2, 1, 1))
    with pytest.raises(StageError, match=r"several failed .exit code"):
        runner.ensure("several", [step])
    assert (runner.store.partial(step) / "half").exists() and not runner.store.has(step)
    pids = [int(file.read_text()) for file in runner.store.partial(step).glob("pid?")]
    assert pids and not any(psutil.pid_exists(pid) for pid in pids)


def test_costs_are_measured_per_stage_and_artifact(stage: str, runner: Runner) -> None:
    one, big, small = steps(stage, "one", "busy and big", "three")
    runner.ensure("first", [one])
    runner.ensure("second", [one, big, small])
    runner.ensure("third", [one])
    first, second, third = runner.costs
    assert (first.title, first.made, first.found) == ("first", 1, 0)
    assert (second.made, second.found, third.made, third.found) == (2, 1, 0, 1)
    assert second.wall_s > 0.3 and second.cpu_s > 0.3 and second.tokens == 12
    assert third.wall_s == third.cpu_s == 0 and third.tokens is None
    found = {
        s.name: json.loads((runner.store.path(s) / "manifest.json").read_text()) for s in (one, big, small)
    }
    assert found["busy and big"]["cpu_s"] > 0.25 > found["three"]["cpu_s"]
    assert found["busy and big"]["tokens"] == 12 and found["three"]["tokens"] is None
    if sys.platform == "linux":
        peaks = {name: m["peak_memory_bytes"] for name, m in found.items()}
        assert peaks["busy and big"] > peaks["three"] + 100e6, "a job's peak is its own"
        assert second.peak_memory_bytes >= peaks["busy and big"]


def test_jobs_made_together_share_the_cost(stage: str, runner: Runner) -> None:
    wanted = [Step(stage, f"part {n}", {"do": "together", "n": n}) for n in range(2)]
    runner.ensure("together", wanted)
    found = [json.loads((runner.store.path(s) / "manifest.json").read_text())["wall_s"] for s in wanted]
    assert found == [5.0, 5.0]


def test_without_a_terminal_lines_tell_how_far_it_is(
    stage: str, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display, "FIRST_S", 0.01)
    monkeypatch.setattr(display, "EVERY_S", 0.2)
    runner.ensure("slow stage", steps(stage, "slow"))
    lines = said(runner).splitlines()
    assert lines[0] == "slow stage ..." and lines[1] == "slow stage: ... still loading, 0 s"
    assert any(line.startswith("slow stage: 1/4 (25%), loss 0.50, 0:0") for line in lines), lines
    assert any("still working, nothing new for 1 s" in line for line in lines), lines
    assert lines[-1].startswith("done slow stage")


def test_two_runs_share_the_work(stage: str, tmp_path: Path) -> None:
    wanted = steps(stage, "one")
    runners = [Runner(Store(tmp_path / "store"), Console(file=io.StringIO())) for _ in range(2)]
    threads = [threading.Thread(target=r.ensure, args=("fake", wanted)) for r in runners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    for r in runners:
        r.close()
    assert sorted(len(r.made) for r in runners) == [0, 1]
    assert sorted(r.cached for r in runners) == [0, 1]
