"""Services that never answer: W&B and a judge's server cost a bounded time, a line or an invalid verdict, and no result."""

from __future__ import annotations

import io
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from rich.console import Console

from data.schema import Completion
from evaluation.server_judge import judge_with_server
from pipeline import tracking
from pipeline.config import check
from pipeline.tracking import Tracker, within

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.mark.parametrize("hangs", ["init", "log", "finish"])
def test_a_tracker_that_hangs_is_left_behind_with_one_line(
    hangs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "CALL_S", 0.2)
    monkeypatch.setattr(tracking, "FINISH_S", 0.2)
    called: list[str] = []

    def does(name: str, result: Any = None) -> Any:
        def function(*_: Any, **__: Any) -> Any:
            called.append(name)
            if name == hangs:
                time.sleep(60)
            return result

        return function

    run = SimpleNamespace(log=does("log"), finish=does("finish"))
    fake = SimpleNamespace(init=does("init", run), Settings=dict, Table=dict, Image=str)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = check(compose("config", ["model=tiny", "tracking.mode=offline", f"tracking.dir={tmp_path}"]))
    console = Console(file=io.StringIO(), width=200)
    tracker, start = Tracker(config, "run", console), time.monotonic()
    for _ in range(3):
        tracker.report([], [])
    tracker.finish()
    assert time.monotonic() - start < 5 and called.count(hangs) == 1
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert said.splitlines() == [
        "tracking off: TimeoutError: W&B has not answered for 0 s; `wandb sync` uploads later"
    ]


def test_what_is_in_time_comes_back_and_so_does_its_error() -> None:
    assert within(5, lambda: 3) == 3
    with pytest.raises(KeyError, match="x"):
        within(5, lambda: {}["x"])


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[socket.socket]]]:
    """A server that takes connections and never says anything."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    taken: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    taken.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1", taken
    for connection in taken:
        connection.close()


def test_a_judge_that_never_answers_is_invalid_after_its_attempts(
    silent: tuple[str, list[socket.socket]],
) -> None:
    url, taken = silent
    rows = [Completion(name, "p", f"reply {name}") for name in "abc"]
    start = time.monotonic()
    verdicts, usage = judge_with_server(rows, base_url=url, model="m", attempts=2, timeout_s=0.3)
    assert time.monotonic() - start < 30
    assert [v.verdict for v in verdicts] == ["invalid"] * 3 and usage.failures == 3
    assert len(taken) == 6, "each is asked as often as it was allowed, and no more"
    assert all("timed out" in (v.raw or "").lower() for v in verdicts)
