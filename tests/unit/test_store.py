"""The store: keys say what an artifact depends on, nothing half-written is ever found, and two jobs share the work."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from data.schema import Completion
from pipeline import locks
from pipeline import store as store_module
from pipeline.artifacts import ADAPTER, COMPLETIONS, completions
from pipeline.partial_rows import PARTIAL, appending
from pipeline.run import Runner
from pipeline.stages.generate import Work, finished_rows
from pipeline.store import DONE, MANIFEST, External, Step, Store, digest
from pipeline.unkeyed import Share, Unkeyed
from pipeline.worker import Job, finish
from safemerge.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def step(**changes: object) -> Step:
    values = {
        "stage": "prepare",
        "name": "rows",
        "settings": {"limit": 3, "args": {"a": 1, "b": 2}},
        **changes,
    }
    return Step(**values)  # type: ignore[arg-type]


def test_key_ignores_the_order_of_settings_the_name_and_what_is_unkeyed() -> None:
    other = step(settings={"args": {"b": 2, "a": 1}, "limit": 3}, name="same rows", unkeyed=Share(4, 2, 1))
    assert other.key == step().key


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": {"limit": 4, "args": {"a": 1, "b": 2}}},
        {"settings": {"limit": 3, "args": {"a": 1, "b": 3}}},
        {"settings": {"limit": None, "args": {"a": 1, "b": 2}}},
        {"stage": "finetune"},
        {"inputs": {"model": Step("prepare", "model", {"what": "model"})}},
    ],
)
def test_key_follows_what_the_content_depends_on(changes: dict) -> None:
    assert step(**changes).key != step().key


def test_key_follows_the_key_of_an_input_and_its_role() -> None:
    one, two = Step("prepare", "m", {"id": "one"}), Step("prepare", "m", {"id": "two"})
    keys = {step(inputs=i).key for i in ({"model": one}, {"model": two}, {"adapter": one})}
    assert len(keys) == 3


def test_key_follows_the_version_of_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    before, other = step().key, step(stage="merge").key
    monkeypatch.setitem(store_module.VERSIONS, "prepare", 999)
    assert step().key != before
    assert step(stage="merge").key == other


def test_digest_refuses_what_has_no_stable_text() -> None:
    with pytest.raises(ValueError):
        digest({"loss": float("nan")})


def test_external_is_keyed_by_its_content(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text('{"r": 8}')
        (tmp_path / name / "adapter_model.safetensors").write_bytes(b"weights")
    one, two = External("task_adapter", tmp_path / "one"), External("other", tmp_path / "two")
    assert one.key == two.key
    (tmp_path / "two" / "README.md").write_text("a model card does not change what the adapter computes")
    assert External("x", tmp_path / "two").key == one.key
    (tmp_path / "two" / "adapter_model.safetensors").write_bytes(b"weightz")
    assert External("x", tmp_path / "two").key != one.key


def test_a_partial_artifact_is_not_found_and_a_committed_one_is(tmp_path: Path) -> None:
    store, made = Store(tmp_path), step()
    partial = store.partial(made)
    partial.mkdir(parents=True)
    (partial / "rows.jsonl").write_text("{}\n")
    (partial / DONE).write_text("{}")
    assert not store.has(made)
    store.commit(made, {"key": made.key})
    assert store.has(made)
    assert not partial.exists()
    assert sorted(p.name for p in store.path(made).iterdir()) == [MANIFEST, "rows.jsonl"]


def test_commit_shows_the_artifact_only_by_the_last_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed just before the rename, the store looks as if nothing had been made; the next run can commit."""
    store, made = Store(tmp_path), step()
    store.partial(made).mkdir(parents=True)

    def killed(*args: object) -> None:
        assert not store.has(made)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store_module.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            store.commit(made, {"key": made.key})
    assert not store.has(made)
    store.commit(made, {"key": made.key})
    assert json.loads((store.path(made) / MANIFEST).read_text())["key"] == made.key


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", ["native", "lease"])
def test_two_jobs_compute_an_artifact_once(tmp_path: Path, reverse: bool, kind: str) -> None:
    """Also when they want the same steps in opposite order, which would deadlock if locks followed that order."""
    steps = [step(settings={"n": n}) for n in range(3)]
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
    shared, own = (step(settings={"n": n}) for n in range(2))
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
    made = step(settings={"n": 0})
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


def test_an_artifact_finished_before_the_kill_is_picked_up(tmp_path: Path) -> None:
    """done.json without a rename: the worker had finished, the main process was killed before moving it."""
    store = Store(tmp_path)
    made = Step("finetune", "task LoRA", {"role": "task"})
    store.partial(made).mkdir(parents=True)
    (store.partial(made) / ADAPTER).write_text("{}")
    (store.partial(made) / DONE).write_text(json.dumps({"wall_s": 1.5, "peak_memory_bytes": 7}))
    runner = Runner(store, Console(quiet=True))
    runner.ensure("fine-tuning", [made])  # a worker would fail: this step has no inputs to train on
    assert store.has(made)
    manifest = json.loads((store.path(made) / MANIFEST).read_text())
    assert (
        manifest["wall_s"] == 1.5 and manifest["settings"] == {"role": "task"} and manifest["key"] == made.key
    )
    assert {"created", "git", "packages", "machine"} <= set(manifest)


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


def test_finish_records_time_and_memory(tmp_path: Path) -> None:
    finish(job(tmp_path), 2.345)
    done = json.loads((tmp_path / DONE).read_text())
    assert done["wall_s"] == 2.35 or done["wall_s"] == 2.34
    assert done["peak_memory_bytes"] > 1 << 20


def test_no_done_file_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), job(tmp_path).finishing():
        raise RuntimeError("out of memory")
    assert not (tmp_path / DONE).exists()
