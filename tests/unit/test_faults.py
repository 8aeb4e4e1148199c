"""What goes wrong around a run: folders that cannot be written, an engine that dies, a clock that jumps, secrets in a log.

Damaged artifacts are in `test_integrity`, what a machine runs out of in `test_exhausted`.
"""

from __future__ import annotations

import datetime
import errno
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data.schema import Item, write_jsonl
from evaluation.engine import Reply
from pipeline import artifacts, job, partial_rows, preflight, provenance
from pipeline.run import Runner, StageError
from pipeline.stage_settings import Generate
from pipeline.stages import generate
from pipeline.store import DONE, MANIFEST, Step, Store
from pipeline.unkeyed import Engine
from pipeline.worker import Job
from safemerge.errors import UserError
from tests.fake_stage import said


def test_done_is_written_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, text: str, *args: Any, **more: Any) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError):
        job.finish(Job("x", {}, Engine(1, 1, 0.5, 1), {}, tmp_path), 1.0)
    assert not (tmp_path / DONE).exists()


def test_secrets_and_control_characters_stay_out_of_what_a_worker_says(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_API_KEY", "sk-planted-0123456789")
    for do in ("secret", "steer"):
        with pytest.raises(StageError) as error:
            runner.ensure("fake", [Step("fake_stage", do, {"do": do})])
        assert "sk-planted" not in str(error.value) + said(runner)
    assert "***" in said(runner) and "\\x1b[2Jgone" in said(runner) and "\x1b" not in said(runner)


class Places:
    """As much of an experiment as is looked at."""

    def __init__(self, store: object, runs: object) -> None:
        self.config = type("Config", (), {"store": str(store), "runs": str(runs)})()


def test_folders_that_cannot_be_written_are_refused_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for store, words in (
        (tmp_path / "file" / "store", "is no folder; set store=DIR"),
        (tmp_path / "loop" / "store", "is no folder; set store=DIR"),
        ("a\0b", "holds a NUL"),
    ):
        with pytest.raises(UserError, match=words):
            preflight.writable(Places(store, tmp_path))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"runs=.*is no folder; set runs=DIR"):
        preflight.writable(Places(tmp_path / "new" / "store", tmp_path / "file"))  # type: ignore[arg-type]
    monkeypatch.setattr(preflight.os, "access", lambda path, mode: False)  # as on a read-only file system
    with pytest.raises(UserError, match="read-only or not yours; set store=DIR"):
        preflight.writable(Places(tmp_path / "new" / "store", tmp_path))  # type: ignore[arg-type]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "loop"]


def test_an_engine_that_dies_in_the_middle_loses_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    items = [Item(f"i{n}", f"prompt {n}", half="test") for n in range(4)]
    (tmp_path / "items").mkdir()
    write_jsonl(tmp_path / "items" / artifacts.ROWS, items)
    asked: list[list[str]] = []

    def engine(folder: str, requests: list[Any], **settings: Any) -> Iterator[Reply]:
        asked.append([request.item for request in requests])
        for number, request in enumerate(requests):
            if len(asked) == 1 and number == 2:
                raise RuntimeError("EngineCore encountered an issue")
            yield Reply(request.key, f"to {request.item}", 1, "stop")

    monkeypatch.setattr(generate, "generate", engine)
    monkeypatch.setattr(generate, "prompt_ids", lambda *args, **more: [1])
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda folder: None)
    settings = Generate("transformers", "float32", 8, "test", None, 0.0, None, None).keyed()
    output = tmp_path / "out"
    output.mkdir()
    todo = Job("x", settings, Engine(1, 1, 0.5, 1), {"items": tmp_path / "items", "model": tmp_path}, output)
    with pytest.raises(RuntimeError):
        generate.run([todo])
    with (output / partial_rows.PARTIAL).open("ab") as stream:  # and the disk's last block is rubbish
        stream.write(b'{"id": "i3", "prompt": "prompt 3", "completion": "\xff\xfe"}\n')
    generate.run([todo])
    assert asked == [["i0", "i1", "i2", "i3"], ["i2", "i3"]]
    assert [row.completion for row in artifacts.completions(output)] == [f"to i{n}" for n in range(4)]


def test_a_clock_that_jumps_changes_no_duration_and_loses_nothing(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    jumps = iter([4e9, 0.0, 2e9, 1.0] * 1000)
    monkeypatch.setattr(time, "time", lambda: next(jumps))

    class Jumping(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
            return datetime.datetime.fromtimestamp(next(jumps), tz)

    monkeypatch.setattr(provenance.datetime, "datetime", Jumping)
    step = Step("fake_stage", "one", {"do": "one"})
    runner.ensure("fake", [step])
    runner.ensure("fake", [step])
    assert [0 <= cost.wall_s < 60 for cost in runner.costs] == [True, True] and runner.cached == 1
    manifest = json.loads((runner.store.path(step) / MANIFEST).read_text())
    assert 0 <= manifest["wall_s"] < 60
    os.utime(runner.store.path(step) / MANIFEST, (0, 0))
    assert Store(runner.store.root).has(step)
