"""The files that are on GitHub only: fetched once, at their commit, and checked; else it is said where to get them."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from data import github, loading, safety
from data.catalogue import KNOWN
from safemerge.errors import UserError

ROWS = b'[{"instruction": "Do harm", "input": "", "output": "No."}]'
FILE = github.GithubFile("owner/name", "0" * 40, "data/rows.json", hashlib.sha256(ROWS).hexdigest())


class _Raw(http.server.BaseHTTPRequestHandler):
    content, asked = ROWS, list[str]()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200 if self.content else 404)
        self.send_header("Content-Length", str(len(ROWS)))
        self.end_headers()
        self.wfile.write(self.content)


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Raw]]:
    """GitHub's raw files, on loopback, and an empty cache."""
    handler = type("Raw", (_Raw,), {"asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    monkeypatch.setattr(github, "RAW", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield handler
    server.shutdown()
    server.server_close()


def test_it_is_fetched_once(raw: type[_Raw]) -> None:
    path = github.fetched(FILE, "safety")
    assert path.read_bytes() == ROWS and github.fetched(FILE, "safety") == path
    assert raw.asked == [f"/owner/name/{'0' * 40}/data/rows.json"]
    assert [file.name for file in path.parent.iterdir()] == ["rows.json"]


@pytest.mark.parametrize("content", [b"", ROWS[:-9], ROWS.replace(b"harm", b"good")])
def test_nothing_and_something_else_are_one_line_and_leave_nothing(raw: type[_Raw], content: bytes) -> None:
    raw.content = content
    with pytest.raises(
        UserError, match=r"GitHub does not give it .*\+\+data\.datasets\.safety\.file=PATH"
    ) as error:
        github.fetched(FILE, "safety")
    assert "get data/rows.json of github.com/owner/name at 0000" in str(error.value) and "\n" not in str(
        error.value
    )
    assert not list(FILE.place.parent.glob("*"))


def test_offline_asks_nothing_and_what_lies_there_is_checked(
    raw: type[_Raw], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE forbids to ask"):
        github.fetched(FILE, "safety")
    assert not raw.asked
    FILE.place.parent.mkdir(parents=True)
    FILE.place.write_bytes(b"[]")
    with pytest.raises(UserError, match=r"rows\.json is not data/rows\.json of .* its SHA-256 is 4f53cda1"):
        github.fetched(FILE, "safety")
    FILE.place.write_bytes(ROWS)
    assert github.fetched(FILE, "safety") == FILE.place


def test_the_rows_and_the_key_are_those_of_the_file_given_by_path(
    raw: type[_Raw], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that what was made of one is found again with the other."""
    (tmp_path / "mine.json").write_bytes(ROWS)
    (own := dict(KNOWN))["safety"] = safety.SETS[0].__class__(
        "safety", local={"train": ""}, examples=safety.SETS[0].examples, github=FILE
    )
    monkeypatch.setattr("data.catalogue.KNOWN", own)
    given, from_hub = (
        {"source": "hub", "root": None, "datasets": {"safety": {"file": file}}}
        for file in (str(tmp_path / "mine.json"), None)
    )
    of_hub = loading.fingerprint("safety", split="train", source=from_hub)
    assert of_hub == loading.fingerprint("safety", split="train", source=given) and not raw.asked
    assert not loading.at_hand("safety", split="train", source=from_hub)
    assert loading.training("safety", source=from_hub) == loading.training("safety", source=given)
    assert loading.at_hand("safety", split="train", source=from_hub)


COPIES = Path(__file__).resolve().parents[3] / "shared" / "datasets" / "bianchi"


@pytest.mark.skipif(not COPIES.is_dir(), reason=f"no local copies of the originals at {COPIES}")
def test_the_hashes_are_those_of_the_originals() -> None:
    for name, path in (
        ("safety", "safety_only_data_Instructions.json"),
        ("malicious", "eval/I-MaliciousInstructions.json"),
    ):
        file = KNOWN[name].github
        assert file is not None and hashlib.sha256((COPIES / path).read_bytes()).hexdigest() == file.sha256
