"""A revision that may move, such as `main`, is one commit from the plan on: in keys, in manifests, in what is fetched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import HfApi, constants
from hydra import compose, initialize_config_dir

from pipeline import plan, revisions
from pipeline.__main__ import guarded, run
from pipeline.config import check
from pipeline.settings import Config, HubMember
from pipeline.unkeyed import Origin

CONF = Path(__file__).resolve().parents[2] / "conf"
ONE, TWO = "1" * 40, "2" * 40
DIRECTHARM, XSTEST, HEXPHI = "vfleaking/DirectHarm4", "Paul/XSTest", "LLM-Tuning-Safety/HEx-PHI"


@pytest.fixture(scope="module", autouse=True)
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@pytest.fixture(scope="module")
def composed() -> Config:
    return check(compose("config", ["model=smollm2-135m-hub", "judge=[refusal]"]))


@pytest.fixture
def config(composed: Config, tmp_path: Path) -> Config:
    folders = {"store": str(tmp_path / "store"), "runs": str(tmp_path / "runs")}
    return composed.model_copy(deep=True, update=folders)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and nothing remembered of other tests."""
    revisions._commit.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


class Hub:
    """Answers with the commit of each repository, and notes down what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, commit: str = ONE) -> None:
        self.commit, self.asked = commit, list[tuple[str, str, str]]()
        monkeypatch.setattr("safemerge.hub.reachable", lambda **_: True)
        monkeypatch.setattr(HfApi, "repo_info", self.repo_info)

    def repo_info(self, *, repo_id: str, repo_type: str, revision: str, **_: Any) -> SimpleNamespace:
        self.asked.append((repo_type, repo_id, revision))
        return SimpleNamespace(sha=self.commit)


def pinned(config: Config) -> Config:
    found, lines = revisions.pinned(config)
    assert lines == []
    return found


def test_the_commit_of_the_day_is_in_the_key_the_manifest_and_the_request(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(monkeypatch)
    before = plan.build(pinned(config))
    assert hub.asked == [
        ("dataset", DIRECTHARM, "main"),
        ("dataset", XSTEST, "main"),
    ]  # those of the run only
    items = before.items["directharm"]
    assert f"id={DIRECTHARM} revision={ONE}" in items.settings["fingerprint"]  # settings are in the manifest
    assert isinstance(items.unkeyed, Origin)
    assert items.unkeyed.source["datasets"]["directharm"]["revision"] == ONE
    assert config.data.datasets["directharm"].revision == "main"  # what was asked for is left as it is
    revisions._commit.cache_clear()
    hub.commit = TWO
    after = plan.build(pinned(config))
    assert after.items["directharm"].key != items.key
    assert after.items["gsm8k"].key == before.items["gsm8k"].key
    assert plan.run_name(after.config) != plan.run_name(before.config)


def test_models_and_judges_too(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch)
    assert isinstance(config.model.base, HubMember) and isinstance(config.model.aligned, HubMember)
    config.model.base.revision, aligned = None, config.model.aligned.revision
    found = pinned(config)
    assert ("model", "HuggingFaceTB/SmolLM2-135M", None) in hub.asked
    assert plan.build(found).base.settings["revision"] == ONE
    assert found.model.aligned.kind == "hub" and found.model.aligned.revision == aligned


def test_the_jobs_of_a_sweep_share_their_commits(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch)
    first = pinned(config)
    hub.commit = TWO
    assert pinned(config.model_copy(update={"seed": 1})).data == first.data


def test_without_the_network_the_hubs_cache_knows(
    config: Config, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Hub(monkeypatch)
    online = pinned(config)
    assert (cache / "datasets--Paul--XSTest" / "refs" / "main").read_text() == ONE
    monkeypatch.setattr("safemerge.hub.reachable", lambda **_: False)
    monkeypatch.setattr(HfApi, "repo_info", None)
    assert pinned(config) == online  # the same keys: what was made is found again
    (cache / "datasets--Paul--XSTest" / "refs" / "main").write_text(TWO)
    revisions._commit.cache_clear()
    assert pinned(config).data.datasets["xstest"].revision == TWO


def test_where_neither_knows_it_the_plan_says_so_and_the_run_stops(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("safemerge.hub.reachable", lambda **_: False)
    assert guarded(lambda: run(config.model_copy(update={"dry_run": True}))) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"revision not resolved: {DIRECTHARM}: the hub is not reached, and its cache does not know" in said
    assert f"revision not resolved: {XSTEST}: " in said and HEXPHI not in said
    assert guarded(lambda: run(config)) == 2
    error = capsys.readouterr().err
    assert f"a commit for each revision ({DIRECTHARM}: " in error
    assert "go online, or give a full commit hash as the revision, and 1 more)" in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "store").exists() and not (tmp_path / "runs").exists()


def test_what_is_not_on_the_hub_is_said_in_the_plan(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import errors

    hub = Hub(monkeypatch)

    def fail(**asked: Any) -> SimpleNamespace:
        if asked["repo_id"] == XSTEST:
            raise errors.HFValidationError("no")
        return hub.repo_info(**asked)

    monkeypatch.setattr(HfApi, "repo_info", staticmethod(fail))
    found, [line] = revisions.pinned(config)
    assert XSTEST in line and found.data.datasets["xstest"].revision == "main"
    assert found.data.datasets["directharm"].revision == ONE


def test_data_of_your_own_asks_the_hub_for_nothing(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safemerge.hub.reachable", lambda **_: pytest.fail("asked the hub"))
    config.data.source = "local"
    assert pinned(config) == config
