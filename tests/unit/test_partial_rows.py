"""Rows that survive an interruption: each is on the disk as soon as it is there, and a cut one is made again."""

from __future__ import annotations

import json
from pathlib import Path

from data.schema import Completion
from pipeline.artifacts import COMPLETIONS, completions
from pipeline.partial_rows import PARTIAL, appending
from pipeline.stages.generate import Work, finished_rows
from pipeline.store import DONE
from pipeline.unkeyed import Unkeyed
from pipeline.worker import Job

ROOT = Path(__file__).resolve().parents[2]


def job(output: Path) -> Job:
    return Job("gsm8k", {}, Unkeyed(), {}, output)


def work(output: Path, *ids: str) -> Work:
    """What is left of a job with these prompts, as the stage finds it."""
    return Work(job(output), {key: "p" for key in ids}, finished_rows(output), appending(output))


def reply(key: str, tokens: int = 1) -> Completion:
    return Completion(key, "p", f"reply to {key}", completion_tokens=tokens, completion_ids=[7] * tokens)


def test_a_line_cut_by_a_crash_is_made_again(tmp_path: Path) -> None:
    rows = {key: reply(key) for key in ("i0", "i1", "i2")}
    before = work(tmp_path, *rows)
    for row in rows.values():
        before.add(row)
    assert finished_rows(tmp_path) == rows, "each one is on the disk as soon as it is there"
    text = (tmp_path / PARTIAL).read_text()
    (tmp_path / PARTIAL).write_text(text[:-9])
    assert finished_rows(tmp_path) == {key: rows[key] for key in ("i0", "i1")}
    assert finished_rows(tmp_path / "nowhere") == {}


def test_after_a_cut_line_the_next_row_starts_on_a_line_of_its_own(tmp_path: Path) -> None:
    whole = json.dumps({"id": "i0", "prompt": "p", "completion": "x"})
    (tmp_path / PARTIAL).write_text(whole + '\n{"id": "i1", "compl')
    work(tmp_path).add(reply("i1"))
    assert list(finished_rows(tmp_path)) == ["i0", "i1"]
    work(tmp_path).add(reply("i2"))
    assert (tmp_path / PARTIAL).read_text().count("\n\n") == 0
    assert list(finished_rows(tmp_path)) == ["i0", "i1", "i2"]


def test_the_final_file_is_in_the_order_of_the_prompts(tmp_path: Path) -> None:
    (tmp_path / PARTIAL).write_text('{"id": "rest')
    its = work(tmp_path, "b", "a")
    its.add(reply("a", tokens=2))
    its.add(reply("b", tokens=3))
    its.finish(1.0)
    assert completions(tmp_path) == [reply("b", tokens=3), reply("a", tokens=2)]
    assert sorted(p.name for p in tmp_path.iterdir()) == [COMPLETIONS, DONE]
    assert json.loads((tmp_path / DONE).read_text())["tokens"] == 5
