"""Which code made something: the commit, and what was changed in the product without a commit."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic_run import write_run

from evaluation.run_file import Git, RunFile, read_run
from evaluation.run_tables import commit_text, made_text
from pipeline import artifacts, provenance, reporting
from pipeline.store import MANIFEST


def git(folder: Path, *args: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *args], cwd=folder, check=True, capture_output=True)


def state(folder: Path) -> Git:
    provenance.git.cache_clear()
    return provenance.git(folder)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clone in small, with nothing to commit."""
    folder = tmp_path / "clone"
    for name in ("pipeline/a.py", "evaluation/b.py", "docs/c.md", "README.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("one\n")
    (folder / ".gitignore").write_text("__pycache__/\n")
    git(folder, "init")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "first")
    return folder


def test_a_clean_checkout(checkout: Path) -> None:
    found = state(checkout)
    assert found.commit and (found.dirty, found.changes) == (False, None)
    assert found.code == found.commit[:10]


CHANGES: dict[str, Callable[[Path], object]] = {
    "an edit": lambda folder: (folder / "pipeline/a.py").write_text("two\n"),
    "another edit": lambda folder: (folder / "pipeline/a.py").write_text("three\n"),
    "an edit of another file": lambda folder: (folder / "evaluation/b.py").write_text("two\n"),
    "a new file": lambda folder: (folder / "pipeline/new.py").write_text("two\n"),
    "a new file of another name": lambda folder: (folder / "pipeline/other.py").write_text("two\n"),
    "a new file with other bytes": lambda folder: (folder / "pipeline/new.py").write_bytes(b"\xff\x00"),
    "a removed file": lambda folder: (folder / "pipeline/a.py").unlink(),
    "a moved file": lambda folder: (folder / "pipeline/a.py").rename(folder / "pipeline/moved.py"),
}


def test_two_changed_trees_of_one_commit_are_two_codes(checkout: Path) -> None:
    codes = {state(checkout).code}
    for change in CHANGES.values():
        change(checkout)
        found = state(checkout)
        assert found.dirty and state(checkout) == found, "the same tree is the same code"
        codes.add(found.code)
        git(checkout, "add", "-A")
        assert state(checkout) == found, "staged or not is all one"
        git(checkout, "reset", "--hard")
        git(checkout, "clean", "-fd")
    assert len(codes) == 1 + len(CHANGES)


def test_what_the_user_calls_a_diff_does_not_matter(checkout: Path) -> None:
    CHANGES["an edit"](checkout)
    before = state(checkout)
    for setting in ("diff.external=false", "diff.noprefix=true", "color.ui=always", "status.short=false"):
        git(checkout, "config", *setting.split("="))
    assert state(checkout) == before


def test_documents_and_tests_are_not_the_product(checkout: Path) -> None:
    """The README's results are written between two runs."""
    before = state(checkout)
    (checkout / "README.md").write_text("two\n")
    (checkout / "docs/new.md").write_text("two\n")
    (checkout / "pipeline/__pycache__").mkdir()
    (checkout / "pipeline/__pycache__/a.pyc").write_text("two\n")
    assert state(checkout) == before


def test_without_git_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert state(tmp_path) == Git(commit=None, dirty=None)
    monkeypatch.setenv("PATH", "")
    assert state(tmp_path) == Git(commit=None, dirty=None)
    assert state(tmp_path).code == "unknown"


def test_an_artifact_names_the_code_that_made_it(tmp_path: Path) -> None:
    def code(git: object) -> str:
        (tmp_path / MANIFEST).write_text(json.dumps({"peak_memory_bytes": 1, "git": git}))
        return artifacts.made(tmp_path).code

    commit = "0123456789abcdef"
    assert code({"commit": commit, "dirty": False, "changes": None}) == "0123456789"
    assert code({"commit": commit, "dirty": True, "changes": "aa"}) == "0123456789+aa"
    assert code({"commit": commit, "dirty": True}) == "0123456789+changes", (
        "recorded before changes were hashed"
    )
    assert code(None) == "unknown"


def test_the_report_tells_two_changed_trees_apart(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, seeds=(0,), n=4))
    clean, commit = run.git.code, str(run.git.commit)
    run.made_by = [clean, f"{clean}+aa", f"{clean}+bb"]
    assert commit_text(run) == clean
    assert made_text(run) == f" from artifacts of `{clean}+aa`, `{clean}+bb`"
    run.git = Git(commit=commit, dirty=True, changes="aa")
    assert commit_text(run) == f"{clean} + uncommitted changes aa"
    assert made_text(run) == f" from artifacts of `{clean}`, `{clean}+bb`"


def test_seeds_that_different_code_reported_are_not_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.plan.settings", lambda config, seeds: "alike")
    monkeypatch.setattr("pipeline.plan.run_name", lambda config, seeds: "seeds")
    now = Git(commit="0123", dirty=True, changes="aa")
    monkeypatch.setattr(provenance, "git", lambda: now)

    def reported(seed: int, changes: str) -> RunFile:
        path = write_run(tmp_path / f"seed{seed}", seeds=(seed,), n=4)
        run = read_run(path)
        run.git, run.settings = Git(commit="0123", dirty=True, changes=changes), "alike"
        run.write(path)
        return run

    reported(0, "aa")
    reported(1, "bb")
    assert reporting.over_seeds(None, tmp_path) is None  # type: ignore[arg-type]
    reported(1, "aa")
    assert reporting.over_seeds(None, tmp_path) == tmp_path / "seeds" / "run.json"  # type: ignore[arg-type]
