"""Damaged artifacts: found when they are looked for, and made again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import integrity
from pipeline.run import Runner
from pipeline.store import DONE, MANIFEST, Step, Store
from safemerge.errors import UserError
from tests.fake_stage import said

ROWS = "rows.jsonl"


def made(store: Store, content: bytes = b"a row\n", *, name: str = "rows") -> Step:
    """A finished artifact."""
    step = Step("prepare", name, {"what": name})
    store.partial(step).mkdir(parents=True)
    (store.partial(step) / ROWS).write_bytes(content)
    store.commit(step, {"stage": "prepare", "key": step.key, "wall_s": 1.5})
    return step


def flip(path: Path, at: int = 0) -> None:
    """One bit of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a bit": (lambda folder: flip(folder / ROWS), f"{ROWS} has other content"),
    "the end": (lambda folder: os.truncate(folder / ROWS, 3), f"{ROWS} has 3 bytes instead of 6"),
    "emptied": (lambda folder: os.truncate(folder / ROWS, 0), f"{ROWS} has 0 bytes"),
    "a file": (lambda folder: (folder / ROWS).unlink(), f"{ROWS} is missing"),
    "a manifest's number": (
        lambda folder: (folder / MANIFEST).write_text((folder / MANIFEST).read_text().replace("1.5", "2.5")),
        f"{MANIFEST} is not as it was written",
    ),
    "a manifest's end": (lambda folder: os.truncate(folder / MANIFEST, 20), "cannot be read"),
    "a manifest's bytes": (lambda folder: (folder / MANIFEST).write_bytes(b"\xff\x00"), "cannot be read"),
    "a manifest's kind": (lambda folder: (folder / MANIFEST).write_text("[1]"), "cannot be read"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_found_when_an_artifact_is_looked_for(kind: str, tmp_path: Path) -> None:
    step = made(Store(tmp_path))
    assert Store(tmp_path).has(step) and Store(tmp_path).damage(step) is None
    damage, words = DAMAGE[kind]
    damage(Store(tmp_path).path(step))
    store = Store(tmp_path)
    assert not store.has(step) and words in str(store.damage(step))


def test_the_log_may_go_on_and_older_manifests_list_nothing(tmp_path: Path) -> None:
    store, step = Store(tmp_path), Step("prepare", "rows", {})
    store.partial(step).mkdir(parents=True)
    (store.partial(step) / "log.txt").write_text("a")
    store.commit(step, {})
    (store.path(step) / "log.txt").write_text("a and more")
    assert Store(tmp_path).has(step)
    (store.path(step) / MANIFEST).write_text('{"key": "x"}')
    (store.path(step) / ROWS).write_text("whatever")
    assert Store(tmp_path).has(step)


def test_of_a_large_file_its_size_its_ends_and_blocks_between_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integrity, "WHOLE", 1 << 10)
    monkeypatch.setattr(integrity, "BLOCK", 64)
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(64 * 100))
    before = integrity.content_hash(path)
    for at in (0, 63, 64 * 100 - 1, 64 * 100 - 64):
        flip(path, at)
        assert integrity.content_hash(path) != before, at
        flip(path, at)
    assert integrity.content_hash(path) == before
    noticed = 0
    for at in range(0, 6400, 32):
        flip(path, at)
        noticed += integrity.content_hash(path) != before
        flip(path, at)
    assert noticed >= integrity.BLOCKS


def test_a_damaged_artifact_is_made_again_with_a_note_and_what_is_whole_is_kept(runner: Runner) -> None:
    one, two = (Step("fake_stage", do, {"do": do}) for do in ("one", "two"))
    runner.ensure("fake", [one, two])
    flip(runner.store.path(one) / "result")
    with Runner(Store(runner.store.root), runner.console) as again:
        again.ensure("fake", [one, two])
        assert [step.name for step in again.made] == ["one"] and again.cached == 1
        assert (again.store.path(one) / "result").read_text() == "one"
    note = f"fake_stage/{one.key} (one) is damaged: result has other content than it was written with; it is made again"
    assert note in said(runner)
    with Runner(Store(runner.store.root), runner.console) as third:
        third.ensure("fake", [one, two])
        assert not third.made


def test_a_damaged_input_whose_stage_was_not_asked_for_is_named(runner: Runner) -> None:
    source = made(runner.store)
    os.truncate(runner.store.path(source) / ROWS, 1)
    with pytest.raises(
        UserError, match=r"needs rows .prepare., damaged in the store .*1 bytes instead of 6.: include"
    ):
        runner.ensure("second", [Step("fake_stage", "reader", {"do": "read"}, {"source": source})])


def test_a_folder_without_its_manifest_is_no_obstacle(runner: Runner) -> None:
    step = Step("fake_stage", "one", {"do": "one"})
    runner.store.path(step).mkdir(parents=True)
    (runner.store.path(step) / "result").write_text("half")
    runner.ensure("fake", [step])
    assert (runner.store.path(step) / "result").read_text() == "one"


def test_a_done_file_that_a_full_disk_cut_is_none(runner: Runner) -> None:
    """It used to end every further run in a traceback."""
    step = Step("fake_stage", "one", {"do": "one"})
    runner.store.partial(step).mkdir(parents=True)
    (runner.store.partial(step) / DONE).write_text('{"wall')
    runner.ensure("fake", [step])
    assert runner.store.has(step)
