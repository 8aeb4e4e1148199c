"""What does not come from the hub is one line with its remedy, whichever of the three callers asked for it."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from data import loading
from pipeline.stage_settings import HubModel
from pipeline.stages.prepare import from_hub
from safemerge import Checkpoint, hub
from safemerge.errors import UserError

CHAT = hub.Repo("org/chat", "v1")


def answered(kind: str, status: int = 404) -> Exception:
    """An error of the hub that holds its response, with a text of several lines."""
    import httpx

    request = httpx.Request("GET", "https://hub")
    error: Exception = getattr(errors, kind)("no\n\nat all", response=httpx.Response(status, request=request))
    return error


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


ERRORS: dict[str, tuple[Callable[[], Exception], str]] = {
    "gated": (
        lambda: answered("GatedRepoError", 403),
        r"org/chat is gated: accept its licence at https://huggingface\.co/org/chat and set HF_TOKEN",
    ),
    "gated, then not in the cache": (
        lambda: caused(errors.LocalEntryNotFoundError("incomplete"), answered("GatedRepoError", 403)),
        "org/chat is gated",
    ),
    "missing": (lambda: answered("RepositoryNotFoundError"), "no model org/chat on the hub.* check the name"),
    "no such revision": (lambda: answered("RevisionNotFoundError"), "org/chat has no revision v1"),
    "no such file": (
        lambda: answered("RemoteEntryNotFoundError"),
        r"org/chat@v1 on the hub has no|cannot fetch",
    ),
    "no name": (lambda: errors.HFValidationError("bad"), "'org/chat' is no name of a model .*owner/name"),
    "not reached": (lambda: errors.LocalEntryNotFoundError("no"), "org/chat@v1 is not in the hub's cache"),
    "forbidden": (lambda: errors.OfflineModeIsEnabled("no"), "HF_HUB_OFFLINE=1 forbids to fetch it: unset"),
    "disk": (lambda: OSError(errno.ENOSPC, "x"), "no space is left for .*org/chat@v1 in .*HF_HOME"),
    "disk, as Xet says it": (
        lambda: RuntimeError("IO: No space left on device (os error 28)"),
        "no space is",
    ),
    "read-only": (lambda: PermissionError(errno.EACCES, "x"), "cannot be written to .*set HF_HOME"),
    "the hub is down": (
        lambda: answered("HfHubHTTPError", 503),
        r"cannot fetch .*org/chat@v1 from the hub \(HfHubHTTPError: no\): run the same command again",
    ),
}


def fails(monkeypatch: pytest.MonkeyPatch, function: str, error: Exception) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, function, fail)


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("function", ["hf_hub_download", "snapshot_download"])
def test_each_failure_is_one_line(kind: str, function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, words = ERRORS[kind]
    fails(monkeypatch, function, make())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", kind == "forbidden")
    with pytest.raises(UserError, match=words) as caught:
        if function == "hf_hub_download":
            hub.file(CHAT, "config.json")
        else:
            hub.snapshot(CHAT, ["*.json"])
    assert "\n" not in str(caught.value)


def test_only_an_absent_file_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one that could not be looked for: another kind of checkpoint would be taken for the model's."""
    fails(monkeypatch, "hf_hub_download", answered("RemoteEntryNotFoundError"))
    assert hub.file(CHAT, "model.safetensors", missing_ok=True) is None
    with pytest.raises(UserError, match=r"model org/chat@v1 on the hub has no model\.safetensors"):
        hub.file(CHAT, "model.safetensors")
    fails(monkeypatch, "hf_hub_download", errors.LocalEntryNotFoundError("offline"))
    with pytest.raises(UserError, match=r"model\.safetensors of org/chat@v1 is not in the hub's cache"):
        hub.file(CHAT, "model.safetensors", missing_ok=True)


def test_the_library_says_it_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    fails(monkeypatch, "hf_hub_download", answered("RepositoryNotFoundError"))
    with pytest.raises(UserError, match="no model org/nothing on the hub"):
        Checkpoint("org/nothing").weight("model.layers.0.self_attn.q_proj")


def test_the_prepare_stage_says_it_of_a_model_and_notes_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails(monkeypatch, "snapshot_download", ConnectionResetError("by peer"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(UserError, match=r"org/chat@v1 is not in .* the hub cannot be reached: check the net"):
        from_hub(HubModel("org/chat", "v1"), tmp_path)
    assert not list(tmp_path.iterdir())
    asked: dict[str, Any] = {}

    def fetched(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        folder = tmp_path / "c0ffee"
        folder.mkdir()
        (folder / "model.safetensors").touch()
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    from_hub(HubModel("org/chat", "v1"), tmp_path)
    assert json.loads((tmp_path / "model.json").read_text())["commit"] == "c0ffee"
    assert (asked["name"], asked["revision"], asked["repo_type"]) == ("org/chat", "v1", "model")


SOURCE: Any = {
    "source": "hub",
    "root": None,
    "datasets": {
        "gsm8k": {"id": "org/sums", "revision": "v1"},
        "hexphi": {"id": "org/hex", "revision": "v2"},
    },
}


def test_a_data_set_of_several_files_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fails(monkeypatch, "snapshot_download", answered("GatedRepoError", 401))
    with pytest.raises(UserError, match=r"org/hex is gated: .*huggingface\.co/datasets/org/hex"):
        loading.items("hexphi", source=SOURCE)


def test_a_data_set_says_the_hubs_reason_which_its_loader_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def fail(*_: Any, **__: Any) -> None:
        raise FileNotFoundError("Couldn't find any data file at org/sums.\nIndeed.")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    fails(monkeypatch, "hf_hub_download", answered("GatedRepoError", 401))
    with pytest.raises(UserError, match=r"org/sums is gated: .*huggingface\.co/datasets/org/sums"):
        loading.items("gsm8k", source=SOURCE)
    fails(monkeypatch, "hf_hub_download", answered("RemoteEntryNotFoundError"))  # the hub has no objection
    with pytest.raises(UserError, match=r"org/sums@v1 .*any data file at org/sums\.\): check its id, config"):
        loading.items("gsm8k", source=SOURCE)
