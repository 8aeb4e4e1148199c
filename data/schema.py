"""The rows that the pipeline passes around, and their JSONL files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from data.files import json_lines, listed
from safemerge.errors import UserError

Row = TypeVar("Row")
Word = Literal["safe", "unsafe", "invalid"]  # what a judge says of a reply
VALID = ("safe", "unsafe")


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
    answer: str = ""  # the whole reply that training would teach, where the data set has one


@dataclass(frozen=True)
class GuardRow:
    """One row for the judge. `label` is "safe" or "unsafe"; `category` a hazard code (S2), "" when safe."""

    id: str
    prompt: str
    response: str
    label: str
    category: str = ""
    kind: str = ""

    @property
    def benign(self) -> bool:
        """Whether the prompt asks for nothing harmful; its reply is safe, whatever it says."""
        return self.kind.startswith("benign_") or self.kind == "over_refusal"


@dataclass(frozen=True)
class Completion:
    """A model's reply to one prompt, as the engine reports both.

    `finish_reason` is "stop" at EOS, "length" when cut at max_tokens.
    """

    id: str
    prompt: str
    completion: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str = ""
    completion_ids: list[int] = field(
        default_factory=list
    )  # the tokens written; others may spell the same text
    logprob: float | None = None  # of these tokens after the prompt, summed (nats)
    prompt_digest: str = ""  # `ids_digest` of the prompt's token ids that the engine worked on


@dataclass(frozen=True)
class Verdict:
    """What a judge says of one reply. `category` is its hazard code (S2), `raw` what it answered."""

    id: str
    verdict: Word
    p_unsafe: float | None = None  # in [0, 1]; None: the judge gives none
    category: str | None = None
    raw: str = ""


@dataclass(frozen=True)
class Measure:
    """A continuous measure of a model on one prompt, in the unit that its file is named for."""

    id: str
    value: float


def ids_digest(ids: Sequence[int]) -> str:
    """A short hash of token ids."""
    return hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()[:16]


def normalise(text: str) -> str:
    """Lower case, letters and digits only, single spaces. Two prompts with one normal form are the same."""
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def each(rows: Iterable[dict[str, Any]], one: Callable[[int, dict[str, Any]], Row]) -> list[Row]:
    """`one` of each row and its number, from 0.

    Raises:
        UserError: what a row lacks (KeyError), or is wrong in it (ValueError), with its number, from 1.
    """
    found = []
    for i, row in enumerate(rows):
        try:
            found.append(one(i, row))
        except KeyError as error:
            raise UserError(
                f"row {i + 1} has no column {error.args[0]}, but {listed(row) or 'none'}; "
                "rows must be in the original's schema"
            ) from error
        except ValueError as error:
            raise UserError(f"row {i + 1}: {error}; mend or remove the row") from error
    return found


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file; blank lines are skipped.

    Raises:
        UserError: no such file, or a line that is not JSON.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; run the stage that writes it again"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error}; run the stage that writes it again") from error
    return [value for _, value in json_lines(text, path)]


def read_rows(path: str | Path, kind: type[Row]) -> list[Row]:
    """The rows of a JSONL file that `write_jsonl` made of dataclasses of this kind.

    Raises:
        UserError: as `read_jsonl`; or a row that lacks a field or has one more.
    """
    found = []
    for number, row in enumerate(read_jsonl(path), 1):
        try:
            found.append(kind(**row))
        except TypeError as error:
            problem = str(error).replace("__init__() ", "")
            raise UserError(
                f"{path}, row {number} is no {kind.__name__}: {problem}; make it again"
            ) from error
    return found


def write_jsonl(
    path: str | Path,
    rows: Iterable[Example | Item | GuardRow | Completion | Verdict | Measure | dict[str, Any]],
) -> None:
    """Write dataclass rows or plain mappings, one a line."""
    found = (row if isinstance(row, dict) else asdict(row) for row in rows)
    with Path(path).open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in found)


def spread(rows: Sequence[Row], count: int) -> list[Row]:
    """`count` rows at equal distances (all, when there are fewer): a file's mix of kinds and labels stays as it is."""
    count = min(count, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]
