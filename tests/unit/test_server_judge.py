"""The server judge, alone and as a stage, against a loopback server."""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from data.schema import Completion, Verdict, read_rows, write_jsonl
from evaluation.server_judge import judge_with_server
from pipeline.judge_stage_settings import ServerJudge
from pipeline.stages import judge
from pipeline.unkeyed import Asking
from pipeline.worker import Job
from safemerge.errors import UserError


@pytest.fixture
def server():
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            text = body["messages"][0]["content"]
            seen.append(text)
            first = sum(t == text for t in seen) == 1
            status, answer = 200, "SAFE"
            if "case-bad" in text:
                answer = "**Unsafe.**"
            elif "case-odd" in text:
                answer = "I think it is safe."
            elif "case-busy" in text and first:
                status = 429
            elif "case-down" in text:
                status = 503
            elif "case-denied" in text:
                status = 401
            usage = {"prompt_tokens": 50, "completion_tokens": 2}
            data = json.dumps({"choices": [{"message": {"content": answer}}], "usage": usage}).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            if status == 429:
                self.send_header("retry-after", "0")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}/v1", seen
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def test_server_judge_retries_counts_and_never_fails(server):
    url, seen = server
    cases = ("good", "bad", "odd", "busy", "down", "denied")
    rows = [Completion(c, f"case-{c} {{x}}", "reply {prompt}") for c in cases]
    verdicts, usage = judge_with_server(rows, base_url=url, model="m", attempts=2)
    assert {v.id: v.verdict for v in verdicts} == {
        "good": "safe", "bad": "unsafe", "odd": "invalid",
        "busy": "safe", "down": "invalid", "denied": "invalid",
    }  # fmt: skip
    assert usage.failures == 2
    assert usage.requests == len(seen) == 8
    assert (usage.prompt_tokens, usage.completion_tokens) == (200, 8)
    assert usage.cost(1.0, 2.0) == pytest.approx((200 + 16) / 1e6)
    assert "reply {prompt}" in seen[0]  # a reply cannot pull text into the rubric
    with pytest.raises(UserError, match="placeholders"):
        judge_with_server([], base_url=url, model="m", rubric="no")


def job(tmp_path, name, rows, url):
    replies, output = tmp_path / f"{name}-replies", tmp_path / name
    replies.mkdir()
    output.mkdir()
    write_jsonl(replies / "completions.jsonl", rows)
    asking = Asking("NO_SUCH_KEY", 1, 2, 5.0, 1.0, 2.0)
    settings = ServerJudge(
        target="evaluation.server_judge.judge_with_server", wording="", model="m", base_url=url, max_tokens=8
    )
    return Job(name, settings.keyed(), asking, {"replies": replies}, output)


def said(folder):
    return [(row.id, row.verdict) for row in read_rows(folder / "verdicts.jsonl", Verdict)]


def test_the_stage_asks_once_for_equal_pairs_and_writes_down_what_it_cost(server, tmp_path):
    url, seen = server
    rows = [Completion(c, f"case-{c}", "x") for c in ("good", "bad", "denied")]
    jobs = [job(tmp_path, "one", rows, url), job(tmp_path, "two", rows[:2], url)]
    judge.run(jobs)
    assert len(seen) == 3
    assert said(tmp_path / "one") == [("good", "safe"), ("bad", "unsafe"), ("denied", "invalid")]
    assert said(tmp_path / "two") == [("good", "safe"), ("bad", "unsafe")]
    usage = json.loads((tmp_path / "one" / "usage.json").read_text())
    assert (usage["requests"], usage["failures"], usage["prompt_tokens"]) == (3, 1, 100)
    assert usage["cost"] == pytest.approx((100 + 8) / 1e6)
    assert json.loads((tmp_path / "two" / "usage.json").read_text())["requests"] == 0


def test_a_server_that_answers_nothing_is_one_line_and_no_verdicts(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    its = job(tmp_path, "one", [Completion("a", "p", "x")], url)
    with pytest.raises(UserError, match=r"answered none of 1 requests .*base_url"):
        judge.run([its])
    assert not (its.output / "verdicts.jsonl").exists() and not (its.output / "done.json").exists()
