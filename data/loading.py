"""Training examples and evaluation items of every data set, from any source: the one door to the data.

Ids do not depend on `limit` or `seed`.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from data import safety, sources
from data.catalogue import KNOWN, find
from data.dataset import BUNDLED, Source
from data.guard import SPLITS
from data.schema import Example, GuardRow, Item
from safemerge.errors import UserError

Row = TypeVar("Row", Example, Item)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _sample(
    rows: list[Row], limit: int | None, seed: int, stratum: Callable[[Row], tuple[str, ...]]
) -> list[Row]:
    """`limit` rows in their original order, each stratum in its proportion; all rows if None.

    Systematic sampling: rows lie in line by stratum, shuffled within each;
    every n-th is taken, from a random start.
    """
    if limit is None or limit >= len(rows):
        return rows
    if limit < 1:
        raise UserError(f"limit={limit} of data rows is not positive; use a number of rows, or null for all")
    line = sorted(range(len(rows)), key=lambda i: (stratum(rows[i]), _digest(f"{seed}/{rows[i].id}")))
    start = random.Random(f"{seed}/{limit}").random()
    chosen = sorted(line[int((k + start) * len(rows) / limit)] for k in range(limit))
    return [rows[i] for i in chosen]


def halves(items: list[Item]) -> list[Item]:
    """The items with `half` set: within each category the ids, in the order of a hash, take turns."""
    category = {item.id: item.category for item in items}
    half: dict[str, str] = {}
    turn: dict[str, int] = {}
    for name in sorted(category, key=lambda i: _digest(f"half/{i}")):
        # Categories start on different sides, or odd ones would all give their extra item to the same half.
        first = _digest(f"first/{category[name]}")[0]
        turn[category[name]] = turn.get(category[name], first) + 1
        half[name] = ("dev", "test")[turn[category[name]] % 2]
    return [replace(item, half=half[item.id]) for item in items]


def guard_rows(split: str) -> list[GuardRow]:
    """The bundled labelled pairs of one of `data.guard.SPLITS`."""
    if split not in SPLITS:
        raise UserError(f"split={split!r} of the judge's data is unknown; use one of {', '.join(SPLITS)}")
    return [
        GuardRow(id=f"guard/{split}/{i}", **row)
        for i, row in enumerate(sources.rows("guard", split, BUNDLED))
    ]


def training(
    name: str, *, source: Source, limit: int | None = None, seed: int = 0, part: str | None = None
) -> list[Example]:
    """Training rows of `name`, in file order.

    `part` ("align" or "safety") is one of two disjoint halves of the safety rows; None is all rows. Of guard
    rows the prompt is the user's, the response the answer to be judged, the category the hazard code; for
    labels see `guard_rows`.
    """
    dataset = find(name, source)
    if part is not None and name != "safety":
        raise UserError(f"part={part!r} is for the safety data only; leave it out for {name}")
    if name == "guard":
        found = [Example(row.id, row.prompt, row.response, row.category) for row in guard_rows("train")]
    elif dataset.examples is None:
        raise UserError(f"there is no training set {name!r}; use one of {', '.join(_with('examples'))}")
    else:
        found = _made(dataset.examples, name, "train", source)
    if part is not None:
        found = safety.part(found, part)
    return _sample(found, limit, seed, lambda example: (example.category,))


def items(
    name: str, *, source: Source, limit: int | None = None, seed: int = 0, selecting: bool = True
) -> list[Item]:
    """Evaluation items of `name`, in halves; a limit keeps their mix and the categories'.

    selecting: False where nothing is selected on any of them; then all are of the test half.
    """
    dataset = find(name, source)
    if dataset.items is None:
        raise UserError(f"there is no benchmark {name!r}; use one of {', '.join(_with('items'))}")
    found = _made(dataset.items, name, "test", source)
    found = halves(found) if selecting else [replace(item, half="test") for item in found]
    return _sample(found, limit, seed, lambda item: (item.label, item.half, item.category))


def _made(
    make: Callable[[list[dict[str, Any]]], list[Row]], name: str, split: str, source: Source
) -> list[Row]:
    """What a set makes of its rows.

    Raises:
        UserError: a row that lacks something, or two rows of one id; with where they are.
    """
    rows = sources.rows(name, split, source)
    try:
        found = make(rows)
    except UserError as error:
        raise UserError(f"{name}, {sources.where(name, split, source)}: {error}") from error
    except KeyError as error:
        raise UserError(
            f"the {split} rows of {name} have no column {error}; they must be in the original's schema"
        ) from error
    first: dict[str, int] = {}
    for number, row in enumerate(found, 1):
        if (other := first.setdefault(row.id, number)) != number:
            raise UserError(
                f"{name}, {sources.where(name, split, source)}: rows {other} and {number} have one id, {row.id}; "
                "remove one of them"
            )
    return found


def _with(what: str) -> list[str]:
    """The names of our data sets that have it: examples or items."""
    return [name for name, dataset in KNOWN.items() if getattr(dataset, what)]


def fingerprint(name: str, *, split: str, source: Source = BUNDLED) -> str:
    """A text that changes with the content of the split (of the hub: its id, revision and config)."""
    return sources.fingerprint(name, split, source)


def at_hand(name: str, *, split: str, source: Source) -> bool:
    """Whether the split can be read without the network."""
    return sources.at_hand(name, split, source)
