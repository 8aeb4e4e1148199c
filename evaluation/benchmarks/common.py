"""What a scorer gives back, and joining items with completions (and verdicts) by id: nothing is matched by position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from data.schema import Completion, Item, Verdict
from safemerge.errors import UserError


@dataclass(frozen=True)
class Scored:
    """What a benchmark says of one reply.

    outcome: correct (utility), harmful (harm) or refused (over-refusal); None where the judge gave no valid verdict.
    invalid: no answer was found (utility: counted as wrong), or the verdict is neither safe nor unsafe.
    """

    id: str
    half: str
    outcome: bool | None
    invalid: bool
    category: str = ""  # of the prompt
    benign: bool = False  # over-refusal only: the prompt should be answered
    verdict: str = ""  # of the judge, where there is one
    p_unsafe: float | None = None  # likewise
    answer: str = ""  # utility only: what was read from the reply
    reference: str = ""
    also: Mapping[str, bool] = field(default_factory=dict)  # secondary outcomes: rates of their own


class Identified(Protocol):
    """A row with an id."""

    @property
    def id(self) -> str: ...


Left = TypeVar("Left", bound=Identified)
Right = TypeVar("Right", bound=Identified)


def by_id(rows: Sequence[Left], what: str) -> dict[str, Left]:
    """Rows by id; a repeated id is an error because it would be counted twice."""
    table: dict[str, Left] = {}
    for row in rows:
        if row.id in table:
            raise UserError(f"{what} hold the id {row.id!r} twice: make the ids unique and generate again")
        table[row.id] = row
    return table


def pair(
    items: Sequence[Left], completions: Sequence[Right], what: str = "completions"
) -> list[tuple[Left, Right]]:
    """(item, its completion or verdict), in the order of the items.

    Raises:
        UserError: one is missing, or there is one too many.
    """
    table, wanted = by_id(completions, what), by_id(items, "items")
    missing = [key for key in wanted if key not in table]
    unknown = [key for key in table if key not in wanted]
    if missing or unknown:
        name = (missing or unknown)[0]
        raise UserError(
            f"{what} and items do not match: {len(missing)} missing, {len(unknown)} unknown (such as {name!r}); "
            "they come from different item files, generate or judge again"
        )
    return [(item, table[key]) for key, item in wanted.items()]


def judged(
    items: Sequence[Item], completions: Sequence[Completion], verdicts: Sequence[Verdict]
) -> list[tuple[Item, Verdict]]:
    """(item, its verdict), in the order of the items; each has a completion, too."""
    pair(items, completions)
    return pair(items, verdicts, "verdicts")
