"""The store: keys say what an artifact depends on, and nothing half-written is ever found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from pipeline import store as store_module
from pipeline.artifacts import ADAPTER
from pipeline.run import Runner
from pipeline.store import DONE, MANIFEST, External, Step, Store, digest
from pipeline.unkeyed import Share, Unkeyed
from pipeline.worker import Job, finish

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


def test_finish_records_time_and_memory(tmp_path: Path) -> None:
    finish(job(tmp_path), 2.345)
    done = json.loads((tmp_path / DONE).read_text())
    assert done["wall_s"] == 2.35 or done["wall_s"] == 2.34
    assert done["peak_memory_bytes"] > 1 << 20


def test_no_done_file_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), job(tmp_path).finishing():
        raise RuntimeError("out of memory")
    assert not (tmp_path / DONE).exists()
