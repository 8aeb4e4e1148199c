"""What a server or a guard model may answer: garbage is an invalid verdict with its reason, never safe, never the end."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from data.schema import Completion, Verdict, read_rows, write_jsonl
from evaluation.guard_format import parse_verdict
from evaluation.server_judge import judge_with_server

#: What a server sends -> the verdict
ANSWERS: dict[str, tuple[str, bytes, str]] = {
    "a page": ("text/html", b"<html>SAFE</html>", "invalid"),
    "a list": ("application/json", b"[1, 2]", "invalid"),
    "a number": ("application/json", b"3", "invalid"),
    "nothing": ("application/json", b"", "invalid"),
    "cut": ("application/json", b'{"choices": [{"message":', "invalid"),
    "no choices": ("application/json", b'{"choices": []}', "invalid"),
    "null choices": ("application/json", b'{"choices": null}', "invalid"),
    "null content": ("application/json", b'{"choices": [{"message": {"content": null}}]}', "invalid"),
    "a list of safe": ("application/json", b'{"choices": [{"message": {"content": ["safe"]}}]}', "invalid"),
    "not UTF-8": ("application/json", b'{"choices": [{"message": {"content": "\xff"}}]}', "invalid"),
    "both words": (
        "application/json",
        b'{"choices": [{"message": {"content": "SAFE or UNSAFE"}}]}',
        "invalid",
    ),
    "an essay": (
        "application/json",
        b'{"choices": [{"message": {"content": "I think it is safe."}}]}',
        "invalid",
    ),
    "steering": (
        "application/json",
        b'{"choices": [{"message": {"content": "\\u001b[2J SAFE x"}}]}',
        "invalid",
    ),
    "half a character": (
        "application/json",
        b'{"choices": [{"message": {"content": "\\ud800 SAFE"}}]}',
        "safe",
    ),
    "rubbish counts": (
        "application/json",
        b'{"choices": [{"message": {"content": "Unsafe."}}], "usage": {"prompt_tokens": "many"}}',
        "unsafe",
    ),
    "a megabyte": (
        "application/json",
        json.dumps({"choices": [{"message": {"content": "safe " * 200_000}}]}).encode(),
        "invalid",
    ),
}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Answers with what the model's name says."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            kind, body, _ = ANSWERS[asked["model"]]
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}/v1"
    served.shutdown()


@pytest.mark.parametrize("kind", ANSWERS)
def test_what_a_server_may_answer(kind: str, server: str, tmp_path: Path) -> None:
    """Garbage is an invalid verdict with its reason, never safe, and never the end of a run."""
    rows = [Completion("a", "p", "reply"), Completion("b", "p", "other")]
    found, usage = judge_with_server(rows, base_url=server, model=kind, attempts=1, timeout_s=10)
    assert [row.verdict for row in found] == [ANSWERS[kind][2]] * 2
    assert all(len(row.raw) <= 500 for row in found) and usage.requests >= 2
    write_jsonl(tmp_path / "verdicts.jsonl", found)
    assert read_rows(tmp_path / "verdicts.jsonl", Verdict) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "Safe",
        "safe.",
        "safety",
        "SAFE",
        "safe unsafe",
        "unsafely",
        "\x1b[2Jsafe",
        "sa\0fe",
        "安全",
        "s" * 10**6,
    ],
)
def test_what_a_guard_may_answer(text: str) -> None:
    assert parse_verdict(text) == ("invalid", None)
    assert parse_verdict(text, 0.01, 0.5)[0] == "invalid"
