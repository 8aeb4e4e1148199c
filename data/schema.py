"""The rows that the pipeline passes around, and their JSONL files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

Row = TypeVar("Row")


@dataclass(frozen=True)
class Example:
    """One training row: the user's prompt and the answer to learn."""

    id: str
    prompt: str
    response: str
    category: str = ""


@dataclass(frozen=True)
class Item:
    """One evaluation row. `half` is "dev" or "test"; `label` is "harmful", "benign" or "" (utility)."""

    id: str
    prompt: str
    reference: str = ""
    category: str = ""
    half: str = ""
    label: str = ""


@dataclass(frozen=True)
class GuardRow:
    """One row for the judge. `label` is "safe" or "unsafe"; `category` a hazard code (S2), "" when safe."""

    id: str
    prompt: str
    response: str
    label: str
    category: str = ""
    kind: str = ""


def normalise(text: str) -> str:
    """Lower case, letters and digits only, single spaces. Two prompts with one normal form are the same."""
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file; blank lines are skipped."""
    # Split at "\n" only: JSON strings may hold other line separators, at which splitlines() would break.
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line.strip()]


def write_jsonl(path: str | Path, rows: Iterable[Example | Item | GuardRow | dict[str, Any]]) -> None:
    """Write dataclass rows or plain mappings, one a line."""
    found = (row if isinstance(row, dict) else asdict(row) for row in rows)
    with Path(path).open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in found)


def spread(rows: list[Row], count: int) -> list[Row]:
    """`count` rows at equal distances (all, when there are fewer): a file's mix of kinds and labels stays as it is."""
    count = min(count, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]


def read_examples(path: str | Path) -> list[Example]:
    return [Example(**row) for row in read_jsonl(path)]


def read_items(path: str | Path) -> list[Item]:
    return [Item(**row) for row in read_jsonl(path)]
