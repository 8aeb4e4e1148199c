"""What a machine runs out of, disk or memory, said in one line."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from pipeline import exhausted
from pipeline.__main__ import guarded
from pipeline.run import Runner, StageError
from pipeline.store import Step
from tests.fake_stage import said


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
