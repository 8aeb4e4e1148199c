"""A toy data set: how is a word spelt? Columns word, spelt."""

from pathlib import Path
from typing import Any

from data.dataset import Dataset
from data.schema import Example, Item

FILE = Path(__file__).with_name("spelling.jsonl")


def _prompt(row: dict[str, Any]) -> str:
    return f"Spell the word {row['word']}."


def examples(rows: list[dict[str, Any]]) -> list[Example]:
    """The first half of the words."""
    half = rows[: len(rows) // 2]
    return [Example(f"spelling/{row['word']}", _prompt(row), row["spelt"]) for row in half]


def items(rows: list[dict[str, Any]]) -> list[Item]:
    """The other half."""
    half = rows[len(rows) // 2 :]
    return [Item(f"spelling/{row['word']}", _prompt(row), reference=row["spelt"]) for row in half]


SPELLING = Dataset("spelling", bundled={"train": FILE, "test": FILE}, examples=examples, items=items)
