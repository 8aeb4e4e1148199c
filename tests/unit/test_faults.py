"""What goes wrong around a run: damaged artifacts, a full disk, no memory, an engine or a server that fails, a clock."""

from __future__ import annotations

import datetime
import errno
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from data.schema import Item, write_jsonl
from evaluation.engine import Reply
from pipeline import artifacts, exhausted, integrity, job, partial_rows, preflight, provenance
from pipeline import store as store_module
from pipeline.__main__ import guarded
from pipeline.run import Runner, StageError
from pipeline.stage_settings import Generate
from pipeline.stages import generate
from pipeline.store import DONE, MANIFEST, Step, Store
from pipeline.unkeyed import Engine
from pipeline.worker import Job
from safemerge.errors import UserError
from tests.fake_stage import install

ROWS = "rows.jsonl"


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:
    """Its stage does what its settings say."""
    monkeypatch.setenv("PYTHONPATH", install(tmp_path))
    monkeypatch.setitem(store_module.VERSIONS, "fake_stage", 1)
    monkeypatch.setattr("pipeline.run.cuda_capability", lambda: None)
    with Runner(Store(tmp_path / "store"), Console(file=io.StringIO(), width=200)) as made:
        yield made


def said(runner: Runner) -> str:
    return runner.console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


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


def test_done_is_written_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, text: str, *args: Any, **more: Any) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError):
        job.finish(Job("x", {}, Engine(1, 1, 0.5, 1), {}, tmp_path), 1.0)
    assert not (tmp_path / DONE).exists()


@pytest.mark.parametrize(
    ("do", "words"),
    [
        ("full disk", ["the disk is full (/there/x.safetensors)", "store=DIR", "rerun the same command"]),
        (
            "no memory",
            ["out of memory (CUDA out of memory. Tried to allocate 2.00 GiB)", "rerun the same command"],
        ),
    ],
)
def test_what_runs_out_in_a_worker_is_said_in_one_line(do: str, words: list[str], runner: Runner) -> None:
    """It comes as data: not even the end of the log is shown, which would say less."""
    steps = [Step("fake_stage", its, {"do": its}) for its in ("one", do)]
    with pytest.raises(StageError) as error:
        runner.ensure("fake", steps)
    assert all(word in str(error.value) for word in words), error.value
    assert "Traceback" not in said(runner) and "RuntimeError" not in said(runner)
    assert runner.store.has(steps[0]), "what was finished before is kept"


def test_secrets_and_control_characters_stay_out_of_what_a_worker_says(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_API_KEY", "sk-planted-0123456789")
    for do in ("secret", "steer"):
        with pytest.raises(StageError) as error:
            runner.ensure("fake", [Step("fake_stage", do, {"do": do})])
        assert "sk-planted" not in str(error.value) + said(runner)
    assert "***" in said(runner) and "\\x1b[2Jgone" in said(runner) and "\x1b" not in said(runner)


@pytest.mark.parametrize(
    ("error", "stage", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "merge", "the disk is full"),
        (
            RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
            "",
            "the disk is full",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "merge", "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "", "/x cannot be read or written"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), "", "store=DIR and runs=DIR"),
        (OSError(errno.ELOOP, "Too many levels of symbolic links", "/x"), "", "/x cannot be used"),
        (MemoryError(), "finetune", "halve train.args.per_device_train_batch_size and double"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            "generate",
            "lower generation.max_num_seqs",
        ),
        (ValueError("No available memory for the cache blocks."), "judge", "lower generation.max_num_seqs"),
        (
            type("EngineDeadError", (Exception,), {})("EngineCore encountered an issue"),
            "generate",
            "the engine died",
        ),
        (ValueError("NaN"), "merge", None),
        (FileNotFoundError(errno.ENOENT, "No such file", "/x"), "merge", None),
    ],
)
def test_what_ran_out_in_words(error: Exception, stage: str, words: str | None) -> None:
    found = exhausted.explained(error, stage)
    assert found is None if words is None else words in str(found) and "\n" not in str(found)
    outer = ValueError("outer")
    outer.__cause__ = error
    assert exhausted.explained(outer, stage) == found


def test_a_full_disk_in_the_main_process_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def write() -> None:
        with open("/dev/full", "w") as full:
            full.write("x" * 100_000)

    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    assert guarded(write) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: the disk is full") and err.strip().count("\n") == 0


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
