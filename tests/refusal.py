"""How bad input ends: exit code 2, one line with the value and the remedy, no traceback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pipeline.__main__ import guarded


def refused(call: Callable[[], Any], capsys: pytest.CaptureFixture[str], *words: str) -> None:
    """Exit 2, and one line on stderr that holds these words."""
    capsys.readouterr()
    assert guarded(call) == 2
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.strip().splitlines()) == 1, said.err
    assert said.err.startswith("error: ") and "Traceback" not in said.err and "\x1b" not in said.err
    for word in words:
        assert word in said.err, said.err
