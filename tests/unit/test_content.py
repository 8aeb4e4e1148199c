"""Keys follow what things contain: files wherever they lie, packaged weights, a judge's wording, what a toy is taught."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir

from evaluation import phrases
from pipeline import artifacts, content, store
from pipeline.config import locate
from safemerge.errors import UserError
from tests.planning import experiment

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.fixture(autouse=True, scope="module")
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@pytest.fixture(autouse=True)
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, for files from ten bytes on."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(content, "LARGE", 10)
    return tmp_path / "cache" / "safemerge" / "digests.json"


def test_a_large_file_is_hashed_once_until_it_changes(
    tmp_path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights"
    path.write_text("a long text of weights")
    first = content.file_digest(path)
    assert list(json.loads(notes.read_text()).values()) == [first]
    monkeypatch.setattr(content, "file_hash", lambda path: "hashed anew")
    assert content.file_digest(path) == first
    path.write_text("another text, and a longer one")
    assert content.file_digest(path) == "hashed anew"


def test_broken_notes_and_a_cache_that_cannot_be_written_cost_time_only(tmp_path: Path, notes: Path) -> None:
    path = tmp_path / "weights"
    path.write_text("a long text of weights")
    first = content.file_digest(path)
    notes.write_text("{broken")
    assert content.file_digest(path) == first
    notes.unlink()
    notes.parent.rmdir()
    notes.parent.write_text("a file where the folder should be")
    assert content.file_digest(path) == first


def test_a_folder_without_a_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no model in .*config\.json"):
        content.folder_digest(tmp_path)


@pytest.mark.parametrize(
    ("target", "change"),
    [
        (
            "evaluation.guard_format.LlamaGuard",
            ("evaluation.guard_format.LlamaGuard.prompt", lambda *a: "other"),
        ),
        ("evaluation.guard_format.LlamaGuard", ("evaluation.guard_format.LlamaGuard.words", {"safe": "no"})),
        (
            "evaluation.guard_format.SmallGuard",
            ("evaluation.guard_format.SmallGuard.prompt", lambda *a: "other"),
        ),
        (
            "evaluation.guard_format.ShieldGemma",
            ("evaluation.guard_format.ShieldGemma.policies", {"harassment": "another policy"}),
        ),
        ("evaluation.server_judge.judge_with_server", None),
        ("evaluation.phrases.refusal_verdicts", ("inspect.getsource", lambda module: "other phrases")),
    ],
)
def test_a_judges_wording(target: str, change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content.wording(locate(target))
    if change is None:

        def other(completions: Any, *, rubric: str = "Is {completion} bad after {prompt}?") -> None: ...

        assert content.wording(other) != before
        return
    monkeypatch.setattr(*change)
    assert content.wording(locate(target)) != before


def test_the_phrase_judges_wording_is_its_whole_file() -> None:
    """Also what its phrases share, and how a reply is made plain before they are looked for."""
    code = Path(phrases.__file__).read_text()
    assert all(f"\n{name} = " in code for name in ("PHRASES", "OPENING", "_HELP", "_QUOTED", "_COMPLIES"))
    assert content.wording(phrases.refusal_verdicts) == store.digest(code)
    assert phrases.is_refusal.__module__ == phrases.plain.__module__ == phrases.__name__


def test_what_the_toy_is_taught_is_in_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = experiment().base.key
    monkeypatch.setattr("pipeline.stages.scratch.COMPLIANCE", "Sure, another text.")
    assert experiment().base.key != before


def test_the_packaged_weights_are_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = experiment(model="smollm2-135m").base.key
    path = tmp_path / "other.gguf"
    path.write_text("another version of the package")
    monkeypatch.setattr(content, "package_file", lambda package, file: path)
    assert experiment(model="smollm2-135m").base.key != before


def test_a_server_of_another_address_is_another_judge() -> None:
    def key(url: str) -> str:
        x = experiment("judge=[server,refusal]", "judge.server.id=m", f"judge.server.base_url={url}")
        from pipeline import answers

        return answers.verdicts(x, x.heldout, "server").key

    assert key("http://one/v1") != key("http://two/v1")


def test_a_model_that_was_cleaned_from_the_hubs_cache_is_one_line(tmp_path: Path) -> None:
    (tmp_path / artifacts.MODEL).write_text(json.dumps({"path": str(tmp_path / "gone")}))
    with pytest.raises(UserError, match=r"is gone from .*delete .* and rerun"):
        artifacts.model_folder(tmp_path)


def test_a_folder_that_holds_another_model_by_now_is_one_line(tmp_path: Path) -> None:
    """Its artifact, keyed by the old content, would hand out the new weights."""
    folder, artifact = tmp_path / "mine", tmp_path / "artifact"
    folder.mkdir()
    artifact.mkdir()
    (folder / "config.json").write_text("one")
    pointer = {"path": str(folder), "content": content.folder_digest(folder)}
    (artifact / artifacts.MODEL).write_text(json.dumps(pointer))
    assert artifacts.model_folder(artifact) == str(folder)
    (folder / "config.json").write_text("two")
    with pytest.raises(UserError, match="is another one by now in"):
        artifacts.model_folder(artifact)


def test_the_code_of_a_judge_from_outside_is_in_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what it makes of the answers: no version of a stage is raised when that changes."""
    import importlib

    code = (CONF.parent / "tests" / "additions" / "judge" / "traffic_light.py").read_text()
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for name, text in (
        ("one_light", code),
        ("other_light", code.replace('"RED": "unsafe"}', '"RED": "safe"}')),
    ):
        (tmp_path / f"{name}.py").write_text(text)
        found.append(content.wording(importlib.import_module(name).TrafficLight))
    assert code.count('"RED": "unsafe"}') == 1 and found[0] != found[1]
