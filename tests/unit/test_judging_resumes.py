"""A judge that is ended while it judges goes on with the pairs that it has not answered yet."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from data.schema import Completion, GuardRow, Verdict, write_jsonl
from evaluation.server_judge import Usage
from pipeline import artifacts
from pipeline.job import Job, begin
from pipeline.judge_stage_settings import GuardJudge, GuardThreshold, ServerJudge
from pipeline.partial_rows import PARTIAL
from pipeline.stages import judge, server_judging
from pipeline.unkeyed import NOTHING, Asking

GUARD = "evaluation.guard_format.SmallGuard"
HOW = (6, None, "transformers", "float32")
REPLIES = {"one": ["a", "b", "c"], "two": ["c", "d"]}


class Killed(BaseException):
    """As if the process ended here."""


class Guard:
    """Answers, until it is killed; `asked` are the replies that it was asked about."""

    def __init__(self, until: int | None) -> None:
        self.until, self.asked = until, list[str]()

    def __call__(self, job: Any, settings: Any, pairs: Sequence[tuple[str, str]]) -> Iterator[Any]:
        for pair in pairs:
            if len(self.asked) == self.until:
                raise Killed
            self.asked.append(pair[1])
            yield pair, [("unsafe\nS1" if pair[1] in "ac" else "safe", 0.9 if pair[1] in "ac" else 0.125)]


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    """Two files of replies, with a pair in common."""
    made = []
    for name, replies in REPLIES.items():
        folder, output = tmp_path / f"{name} replies", tmp_path / name
        folder.mkdir()
        output.mkdir()
        write_jsonl(folder / artifacts.COMPLETIONS, [Completion(r, "p", r) for r in replies])
        settings = GuardJudge(GUARD, "", 0.5, *HOW)
        made.append(Job(name, settings.keyed(), NOTHING, {"replies": folder}, output))
    begin(2)
    return made


def verdicts(job: Job) -> list[tuple[str, str, float | None]]:
    return [(v.id, v.verdict, v.p_unsafe) for v in artifacts.verdicts(job.output)]


def test_a_killed_judge_goes_on_from_the_last_row(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Guard(until=3), Guard(until=None)
    monkeypatch.setattr(judge, "_ask", first)
    with pytest.raises(Killed):
        judge.run(jobs)
    assert first.asked == ["a", "b", "c"] and not (jobs[0].output / artifacts.VERDICTS).exists()
    with (jobs[0].output / PARTIAL).open("a") as stream:
        stream.write('{"pair": "cut by the cr')
    monkeypatch.setattr(judge, "_ask", second)
    judge.run(jobs)
    assert second.asked == ["d"], "an answer that two files share is in both"
    assert verdicts(jobs[0]) == [("a", "unsafe", 0.9), ("b", "safe", 0.125), ("c", "unsafe", 0.9)]
    assert verdicts(jobs[1]) == [("c", "unsafe", 0.9), ("d", "safe", 0.125)]
    assert not any((job.output / PARTIAL).exists() for job in jobs)


def test_of_other_files_beside_it_a_resumed_one_keeps_its_own_answers(
    jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "_ask", Guard(until=3))
    with pytest.raises(Killed):
        judge.run(jobs)
    alone = Guard(until=None)
    monkeypatch.setattr(judge, "_ask", alone)
    judge.run(jobs[1:])
    assert alone.asked == ["d"]


def test_setting_a_threshold_goes_on_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [GuardRow(r, "p", r, "unsafe" if r in "ac" else "safe") for r in "abcd"]
    for name in ("tuning", "threshold"):
        (tmp_path / name).mkdir()
    write_jsonl(tmp_path / "tuning" / artifacts.ROWS, rows)
    settings = GuardThreshold(GUARD, "", *HOW)
    job = Job("threshold", settings.keyed(), NOTHING, {"tuning": tmp_path / "tuning"}, tmp_path / "threshold")
    begin(1)
    monkeypatch.setattr(judge, "_ask", Guard(until=2))
    with pytest.raises(Killed):
        judge.run([job])
    rest = Guard(until=None)
    monkeypatch.setattr(judge, "_ask", rest)
    judge.run([job])
    assert rest.asked == ["c", "d"] and artifacts.threshold(job.output) == pytest.approx((0.9 + 0.125) / 2)
    assert not (job.output / PARTIAL).exists()


def test_a_killed_server_judge_pays_for_no_reply_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def ask(rows: Sequence[Completion], **how: Any) -> tuple[list[Verdict], Usage]:
        if len(asked) == 8 and not (tmp_path / "again").exists():
            raise Killed
        asked.extend(row.completion for row in rows)
        return [Verdict(row.id, "safe", raw="SAFE") for row in rows], Usage(len(rows), 0, 10 * len(rows), 1)

    monkeypatch.setattr(server_judging, "locate", lambda target: ask)
    replies = [f"reply {n}" for n in range(10)]
    (tmp_path / "replies").mkdir()
    (tmp_path / "out").mkdir()
    write_jsonl(tmp_path / "replies" / artifacts.COMPLETIONS, [Completion(r, "p", r) for r in replies])
    settings = ServerJudge("", "", "m", "http://127.0.0.1:1/v1", 8)
    beside = Asking("NO_KEY", 1, 1, 1.0, 1.0, 0.0)  # a connection: four at a time
    job = Job("x", settings.keyed(), beside, {"replies": tmp_path / "replies"}, tmp_path / "out")
    begin(1)
    with pytest.raises(Killed):
        judge.run([job])
    assert asked == replies[:8] and not (job.output / artifacts.VERDICTS).exists()
    (tmp_path / "again").touch()
    judge.run([job])
    assert asked == replies, "each once"
    assert [v.id for v in artifacts.verdicts(job.output)] == replies
    assert not (job.output / PARTIAL).exists()
    usage = json.loads((job.output / artifacts.USAGE).read_text())
    assert usage["requests"] == 10 and usage["cost"] == pytest.approx(100e-6), "of both runs"
