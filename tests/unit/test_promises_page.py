"""docs/promises.md: of today's tests, and of the result file beside it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.promises import __main__ as command
from tests.promises import page
from tests.promises.determinism import Batched
from tests.promises.kills import Kill, Life
from tests.promises.sharing import Sharing

DOCS = Path(__file__).resolve().parents[2] / "docs"


def result(**changes: Any) -> dict[str, Any]:
    """A small one in which all held."""
    kills = [
        Kill("merge", "main", "SIGKILL", "merge", 0.1, -9, 0.5),
        Kill("judge", "worker", "SIGTERM", "judge", 1, 1, 2.25),
    ]
    return {
        "created": "2026-11-29T10:00:00+00:00",
        "git": {"commit": "0123456789abcdef", "dirty": False},
        "machine": {"cpu": "a processor", "cores": 2},
        "asked": {"kills": 2, "fuzz": 10, "seed": 3},
        "code": [{"commit": "0123456789abcdef", "dirty": False}],
        "seconds": {"kills": 120, "sharing": 60, "determinism": 0, "fuzz": 30},
        "lives": [asdict(Life("life/0", "vllm", kills, finished=True))],
        "sharing": {"killed": asdict(Sharing(4, True, artifacts=9, made=[3, 0, 4], before=2))},
        "determinism": {
            "vllm": {"merge": {"files": 2, "equal": 1, "others": ["x.json"]}},
            "batched": Batched(20, 19, 12, 0.0002).record(),
        },
        "fuzz": {"test_any_pattern": {"inputs": 1234, "failed": ""}},
        **changes,
    }  # fmt: skip


def test_the_figures_are_those_of_the_result() -> None:
    text = page.figures(result())
    assert "2 kills of 1 whole runs (1 by vllm)" in text and "0 kills left something wrong" in text
    assert "The slowest ending took 2.2 s" in text or "2.3 s" in text
    assert "| merge | 1 | 1 | 0 | 1 | 0 | 0 |" in text and "| judge | 1 | 0 | 1 | 0 | 1 | 0 |" in text
    assert "| 4, one killed in its trainings | 9 | 3 + 0 + 4 (2 before the kill) | 0 | 0 |" in text
    assert "| merge | 1/2 | x.json |" in text and "19 of 20 completions have the same tokens" in text
    assert "| `test_any_pattern` | 1,234 | no |" in text and "`0123456789`, 2026-11-29" in text


def test_a_part_that_was_not_run_says_so() -> None:
    text = page.figures(result(lives=[], fuzz={}))
    assert text.count("Not run.") == 2 and "**Not a whole run**: 0 of 2 kills, 0 of 10 inputs." in text
    assert "Not a whole run" not in page.figures(result())


def test_what_did_not_hold_is_listed_and_ends_the_command_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.failures(result()) == []
    kill = Kill("merge", "main", "SIGKILL", "merge", 0.1, -9, 0.5, ["process left: x"])
    life = Life("life/7", "vllm", [kill], True, ["merge/k.lock is left"], ["store/merge/k/x"])
    bad = result(
        lives=[asdict(life)],
        sharing={"killed": asdict(Sharing(4, True, problems=["torn"], differing=["a"]))},
        fuzz={"t": {"inputs": 1, "failed": "boom"}},
    )
    found = "\n".join(command.failures(bad))
    for words in ("merge/k.lock is left", "process left: x", "1 files differ", "torn", "boom"):
        assert words in found
    monkeypatch.setattr(command.Command, "run", lambda self: None)
    monkeypatch.setattr(command.Command, "result", lambda self: bad)
    arguments = ["--output", str(tmp_path / "r.json"), "--work", str(tmp_path / "work"), "--kills", "3"]
    assert command.main(arguments) == 1 and "torn" in capsys.readouterr().out
    assert json.loads((tmp_path / "r.json").read_text()) == bad
    with pytest.raises(SystemExit, match="holds a run of"):
        command.main([*arguments, "--kills", "4"])


def test_every_promise_has_tests() -> None:
    for promises in page.PROMISES.values():
        for promise in promises:
            assert all(page.count(test) for test in promise.tests) and promise.tests
    with pytest.raises(ValueError, match="has no test"):
        page.count("unit/test_promises.py::test_nothing")


def test_the_page_is_of_today() -> None:
    again = "python -m tests.promises.page docs/faults.json --output docs/promises.md"
    text = (DOCS / "promises.md").read_text(encoding="utf-8")
    assert text == page.page(json.loads((DOCS / "faults.json").read_text(encoding="utf-8"))), again
