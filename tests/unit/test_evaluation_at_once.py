"""Pieces of work in copies of this process give what they give one after the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from evaluation.at_once import at_once
from tests.unit.synthetic_run import write_run

ROOT = Path(__file__).resolve().parents[2]
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
several = pytest.mark.skipif(CORES < 2, reason="one core: nothing is done at once")
TOLD = """
import json, os
from functools import partial
from evaluation.at_once import at_once
def piece(n):
    return n, os.getpid()
print(json.dumps([os.getpid(), at_once([partial(piece, n) for n in range(6)])]))
"""


def run(*command: str, seed: int = 0) -> str:
    """What a Python of its own prints, with that seed of its hashes."""
    environment = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout


@several
def test_in_copies_in_their_order() -> None:
    own, found = json.loads(run("-c", TOLD))
    assert [n for n, _ in found] == list(range(6))
    assert own not in {process for _, process in found}


@several
def test_a_copy_takes_neither_signals_nor_words_from_this_program() -> None:
    """Ended by a signal it leaves as the system has it; without anyone to tell, it is silent."""
    told = """
import os, signal, sys, time
from functools import partial
from evaluation.at_once import at_once
signal.signal(signal.SIGTERM, lambda *_: sys.stderr.write("handled"))
def piece():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
try:
    at_once([piece, piece])
except RuntimeError as error:
    print(error)
def orphan(n):
    if n == 0:
        os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(1)
at_once([partial(orphan, n) for n in range(2)])
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-u", "-c", told], env=environment, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr) == (-9, "a copy of this process was killed\n", "")


def test_one_after_the_other_where_torch_is_loaded() -> None:
    import torch  # noqa: F401

    assert at_once([os.getpid, os.getpid]) == [os.getpid()] * 2


def test_an_error_is_the_pieces_own() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        at_once([partial(int, "1"), partial(int, "x")])


def test_a_report_is_the_same_bytes_whatever_the_order_of_hashes(tmp_path: Path) -> None:
    run_json = write_run(tmp_path / "run", n=12)
    files = []
    for seed in (1, 2):
        folder = tmp_path / f"report{seed}"
        run("-m", "evaluation.report", str(run_json), "--output", str(folder), seed=seed)
        files.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert len(files[0]) > 10 and files[0].keys() == files[1].keys()
    assert [name for name, content in files[0].items() if content != files[1][name]] == []


@several
@pytest.mark.parametrize(
    "lost", ["def __reduce__(self): raise TypeError", "def __init__(self, a, b): super().__init__(a + b)"]
)
def test_an_error_that_cannot_be_copied_says_what_it_was(lost: str) -> None:
    """Neither one that cannot be written, nor one that cannot be read again."""
    told = f"""
from evaluation.at_once import at_once
class Odd(Exception):
    {lost}
def piece():
    raise Odd("what", "happened")
try:
    at_once([piece, piece])
except RuntimeError as error:
    print(error)
"""
    assert "Odd" in run("-c", told) and "in piece" in run("-c", told)
