"""A file system that is full, that is read-only, and a limit on the size of files: real ones, in a namespace of its own.

Where the kernel does not let a user mount (containers often do not), the tests are left out.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fake_stage import install
from tests.unit.test_endings import RUN

#: One job that writes a megabyte row by row, and goes on from what is there.
STAGE = """
from pipeline.worker import Job

def run(jobs):
    for job in jobs:
        with job.finishing():
            path = job.output / "rows"
            with path.open("ab") as stream:
                while stream.tell() < 1_000_000:
                    stream.write(b"x" * 50_000)
                    stream.flush()
"""


def mounts() -> bool:
    """Whether this user may mount a tmpfs in a namespace of its own."""
    try:
        found = subprocess.run(
            ["unshare", "-rm", "mount", "-t", "tmpfs", "x", "/mnt"], capture_output=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return found.returncode == 0


@pytest.fixture
def script(tmp_path: Path) -> list[str]:
    """The command of a run in the folder `disk`, for a shell that has it in "$@"."""
    (tmp_path / "disk").mkdir()
    return [sys.executable, "-c", RUN, str(tmp_path / "disk" / "store"), "fill", "1"]


def shell(text: str, script: list[str], tmp_path: Path, *, mount: bool = True) -> list[tuple[int, str]]:
    """(exit code, stderr) of each `run` in the text."""
    path = install(tmp_path)
    (tmp_path / "extra" / "fake_stage.py").write_text(STAGE)
    run = f'run() {{ "$@" 2>{tmp_path}/err >/dev/null; echo "code $?"; cat {tmp_path}/err; }}; D={tmp_path}/disk\n'
    before = ["unshare", "-rm"] if mount else []
    done = subprocess.run(
        [*before, "sh", "-c", run + text, "sh", *script],
        env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(tmp_path), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=100,
    )
    parts = done.stdout.split("code ")[1:]
    assert parts, done.stderr
    return [(int(part.split("\n", 1)[0]), part.split("\n", 1)[1].strip()) for part in parts]


@pytest.mark.skipif(not mounts(), reason="no mounting here")
def test_a_full_disk_is_one_line_and_with_more_room_it_goes_on(script: list[str], tmp_path: Path) -> None:
    text = """mount -t tmpfs -o size=600k x $D
    run "$@"; mount -o remount,size=9m $D; run "$@"; ls -R $D/store >&2; ! ls $D/store/*/*.partial"""
    (first, said), (second, _) = shell(text, script, tmp_path)
    assert first == 1 and "the disk is full" in said and "free some space" in said, said
    assert len(said.splitlines()) == 1 and "Traceback" not in said
    assert second == 0


@pytest.mark.skipif(not mounts(), reason="no mounting here")
def test_a_read_only_disk_is_one_line(script: list[str], tmp_path: Path) -> None:
    ((code, said),) = shell(
        'mount -t tmpfs -o size=9m x $D; mount -o remount,ro $D; run "$@"', script, tmp_path
    )
    assert code == 1 and "Read-only file system" in said and "store=DIR" in said, said
    assert len(said.splitlines()) == 1


def test_a_limit_on_the_size_of_files_is_one_line(script: list[str], tmp_path: Path) -> None:
    # In blocks of 512 bytes; Python ignores the signal that comes with it.
    (first, said), (second, _) = shell(
        'S=$(ulimit -S -f); ulimit -S -f 600; run "$@"; ulimit -S -f $S; run "$@"',
        script,
        tmp_path,
        mount=False,
    )
    assert first == 1 and "may grow no further" in said and "ulimit -f" in said, said
    assert len(said.splitlines()) == 1 and second == 0
