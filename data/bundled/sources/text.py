"""Reading the hand-written lists beside this file."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parent


def lines(name: str) -> list[str]:
    """The entries of `name`: stripped, without blank lines and '#' comments."""
    stripped = (line.strip() for line in (HERE / name).read_text(encoding="utf-8").splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def sections(name: str) -> dict[str, list[str]]:
    """The entries of `name` under its `[section]` headings, in file order."""
    found: dict[str, list[str]] = {}
    current = ""
    for line in lines(name):
        if line.startswith("[") and line.endswith("]"):
            current = line[1:-1]
            found[current] = []
        else:
            found[current].append(line)
    return found


def pairs(name: str) -> list[tuple[str, str]]:
    """Entries of the form 'left | right'."""
    split = (line.split(" | ", 1) for line in lines(name))
    return [(left.strip(), right.strip()) for left, right in split]
