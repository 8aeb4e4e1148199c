"""An engine's process that is killed, and a guard that does not answer as one: in one line with what to do."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data.schema import GuardRow, write_jsonl
from evaluation import engine, engines
from evaluation.engine import Reply, Request
from pipeline import artifacts, exhausted
from pipeline.job import Job, begin
from pipeline.judge_stage_settings import GuardThreshold
from pipeline.stages import judge
from pipeline.unkeyed import NOTHING
from safemerge.errors import UserError
from tests.unit.test_judging_resumes import GUARD, HOW


def dies(model: str, requests: list[Request], **how: Any) -> Iterator[Reply]:
    """An engine that is killed after its first answer."""
    yield Reply(requests[0].key, "an answer", 1, "stop")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_engine_is_named_and_what_it_had_answered_came(monkeypatch: pytest.MonkeyPatch) -> None:
    from multiprocessing import get_context

    # Forked, so that the process has the stand-in; the product spawns.
    monkeypatch.setattr(engines, "get_context", lambda _: get_context("fork"))
    monkeypatch.setattr(engine, "generate", dies)
    requests = [Request(str(n), [1], 1) for n in range(4)]
    came = []
    with pytest.raises(engines.EngineDiedError) as error:
        for reply in engines.generate("m", requests, data_parallel_size=2, tensor_parallel_size=1):
            came.append(reply.key)
    assert came
    said = str(exhausted.explained(error.value, "generate"))
    assert said.startswith("the engine died (an engine died: often too little memory)")
    assert said.endswith("rerun the same command to resume") and "\n" not in said


@pytest.mark.parametrize("probability", [None, 0.5])
def test_a_guard_without_probabilities_is_one_line(
    probability: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to be an error of ours with a traceback."""
    rows = [GuardRow(r, "p", r, "unsafe" if r in "ac" else "safe") for r in "abcd"]
    for name in ("tuning", "threshold"):
        (tmp_path / name).mkdir()
    write_jsonl(tmp_path / "tuning" / artifacts.ROWS, rows)
    settings = GuardThreshold(GUARD, "", *HOW)
    job = Job("threshold", settings.keyed(), NOTHING, {"tuning": tmp_path / "tuning"}, tmp_path / "threshold")
    begin(1)

    def ask(job: Job, settings: Any, pairs: Any) -> Iterator[Any]:
        for pair in pairs:  # of the unsafe pairs none at all
            yield pair, [("hm", probability if pair[1] in "bd" else None)]

    monkeypatch.setattr(judge, "_ask", ask)
    with pytest.raises(UserError, match=r"the guard gave [02] of 4 tuning pairs a probability") as error:
        judge.run([job])
    assert "judge.*.threshold" in str(error.value) and "\n" not in str(error.value)
