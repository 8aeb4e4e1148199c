"""Which of several jobs makes an artifact: one does, the others wait or go on, and the work of the dead is taken over."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline import locks
from pipeline.store import Step, Store
from safemerge.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def step(n: int = 0) -> Step:
    return Step("prepare", "rows", {"n": n})


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", ["native", "lease"])
def test_two_jobs_compute_an_artifact_once(tmp_path: Path, reverse: bool, kind: str) -> None:
    """Also when they want the same steps in opposite order, which would deadlock if locks followed that order."""
    steps = [step(n) for n in range(3)]
    computed: list[int] = []
    barrier = threading.Barrier(2)

    def job(wanted: list[Step]) -> None:
        store = Store(tmp_path, kind)
        barrier.wait()
        while not all(map(store.has, wanted)):
            with store.claim(wanted) as missing:
                for s in missing:
                    computed.append(s.settings["n"])
                    store.partial(s).mkdir(parents=True)
                    time.sleep(0.05)
                    store.commit(s, {})

    orders = (steps, steps[::-1] if reverse else steps)
    threads = [threading.Thread(target=job, args=(list(o),), daemon=True) for o in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert not any(t.is_alive() for t in threads), "the two jobs wait for each other"
    assert sorted(computed) == [0, 1, 2]
    assert not list(tmp_path.rglob("*.l*"))


def test_what_another_makes_is_left_to_it_and_the_rest_is_made_meanwhile(tmp_path: Path) -> None:
    shared, own = (step(n) for n in range(2))
    one, two = Store(tmp_path), Store(tmp_path)
    said: list[str] = []
    with one.claim([shared]):
        with two.claim([shared, own], lambda: said.append("waiting")) as missing:
            assert missing == [own] and not said
            two.partial(own).mkdir(parents=True)
            two.commit(own, {})
        thread = threading.Thread(target=lambda: said.append(enter(two, [shared, own])), daemon=True)
        thread.start()
        thread.join(timeout=1.0)
        assert thread.is_alive(), "now there is nothing left but to wait"
        one.partial(shared).mkdir(parents=True)
        one.commit(shared, {})
    thread.join(timeout=10)
    assert said == ["found all"]


def enter(store: Store, wanted: list[Step]) -> str:
    with store.claim(wanted) as missing:
        return "makes some" if missing else "found all"


HOLD = """
import sys, time
from pathlib import Path
from pipeline.store import Step, Store
with Store(Path(sys.argv[1]), sys.argv[2]).claim([Step("prepare", "rows", {"n": 0})]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["native", "lease"])
def test_the_work_of_a_killed_process_is_taken_over(tmp_path: Path, kind: str) -> None:
    made = step()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), kind], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        waits: list[float] = []

        def waiting() -> None:
            waits.append(time.monotonic())
            holder.kill()
            holder.wait()

        with Store(tmp_path, kind).claim([made], waiting) as missing:
            assert missing == [made] and len(waits) == 1 and time.monotonic() - waits[0] < 10
    finally:
        holder.kill()
        holder.communicate()


def test_a_lease_that_another_has_taken_ends_its_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a process that was suspended for longer than a lease lasts: two must not write into one folder."""
    monkeypatch.setattr(locks, "LEASE_S", 0.6)
    ended: list[Any] = []
    monkeypatch.setattr(locks.endings, "at_once", [lambda: ended.append("workers")])
    monkeypatch.setattr(locks.os, "_exit", ended.append)
    with Store(tmp_path, "lease").claim([step()]):
        next(tmp_path.rglob("*.lease")).unlink()
        time.sleep(0.6)
    assert ended == ["workers", 1]


def test_a_file_system_without_locks_is_one_line_with_the_alternative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_daemon(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", no_daemon)
    line = r"without locks \(No locks available\).*rpc.statd.*locks=lease"
    with pytest.raises(UserError, match=line), Store(tmp_path).claim([step()]):
        pytest.fail("it has no lock")
    with Store(tmp_path, "lease").claim([step()]) as missing:
        assert missing == [step()]


def test_a_job_arriving_while_another_commits_still_excludes_a_third(tmp_path: Path) -> None:
    """commit removes the lock's file; whoever waits on the old one must not work beside whoever takes a new one."""
    made = step()
    inside, most = 0, 0
    guard = threading.Lock()

    def job() -> None:
        nonlocal inside, most
        store = Store(tmp_path)
        with store.claim([made]) as missing:
            for s in missing:
                with guard:
                    inside += 1
                    most = max(most, inside)
                store.partial(s).mkdir(parents=True, exist_ok=True)
                time.sleep(0.02)
                with guard:
                    inside -= 1
                store.commit(s, {})

    threads = [threading.Thread(target=job, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert most == 1 and Store(tmp_path).has(made)


def test_claim_locks_nothing_when_all_is_there(tmp_path: Path) -> None:
    store, made = Store(tmp_path), step()
    store.partial(made).mkdir(parents=True)
    store.commit(made, {})
    with store.claim([made]) as missing:
        assert missing == []
    assert not list(tmp_path.rglob("*.lock"))
