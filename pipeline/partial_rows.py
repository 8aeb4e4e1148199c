"""Rows that are written down as they are made, so that an interrupted stage goes on with those that are missing."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, TextIO

PARTIAL = "rows.partial.jsonl"  # in the order of arrival; a last line cut by a crash is ignored


def finished(folder: Path) -> list[dict[str, Any]]:
    """What an interrupted run already wrote. A line that is cut, or no UTF-8 any more, is left out: it is made again."""
    path, rows = folder / PARTIAL, []
    if path.exists():
        for line in path.read_bytes().split(b"\n"):
            with contextlib.suppress(ValueError, RecursionError):
                row = json.loads(line)
                rows += [row] if isinstance(row, dict) else []
    return rows


def appending(folder: Path) -> TextIO:
    """The file of finished rows, opened to go on writing; after a cut last line the next row starts on a new one."""
    path = folder / PARTIAL
    cut = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
    stream = path.open("a", encoding="utf-8")
    if cut:
        stream.write("\n")
    return stream


def add(stream: TextIO, row: dict[str, Any]) -> None:
    """Write a row down at once."""
    stream.write(json.dumps(row) + "\n")
    stream.flush()


def remove(folder: Path) -> None:
    """Forget them: the artifact is complete."""
    (folder / PARTIAL).unlink(missing_ok=True)
