"""Joining items with completions (and verdicts) by id, so that nothing is ever matched by position."""

from __future__ import annotations

from typing import Any

from safemerge.errors import UserError

Row = dict[str, Any]


def by_id(rows: list[Row], what: str) -> dict[str, Row]:
    """Rows by id; a repeated id is an error because it would be counted twice."""
    table: dict[str, Row] = {}
    for row in rows:
        if row["id"] in table:
            raise UserError(f"{what} hold the id {row['id']!r} twice: make the ids unique and generate again")
        table[row["id"]] = row
    return table


def pair(items: list[Row], completions: list[Row], what: str = "completions") -> list[tuple[Row, Row]]:
    """(item, its completion or verdict), in the order of the items.

    A missing one is an error, an extra one too.
    """
    table, wanted = by_id(completions, what), by_id(items, "items")
    missing = [key for key in wanted if key not in table]
    unknown = [key for key in table if key not in wanted]
    if missing or unknown:
        name = (missing or unknown)[0]
        raise UserError(
            f"{what} and items do not match: {len(missing)} missing, {len(unknown)} unknown (such as "
            f"{name!r}); "
            "they come from different item files, generate or judge again"
        )
    return [(item, table[key]) for key, item in wanted.items()]


def verdict_rows(
    items: list[Row], completions: list[Row], verdicts: list[Row] | None
) -> list[tuple[Row, Row, Row]]:
    """(item, its verdict, what every judged benchmark says of it), in the order of the items.

    The third holds id, category, half, verdict and invalid (neither safe nor unsafe). No verdicts: the phrase judge.
    """
    from evaluation.judges import refusal_verdicts

    pair(items, completions)
    found = refusal_verdicts(completions) if verdicts is None else verdicts
    return [
        (
            item,
            verdict,
            {
                "id": item["id"],
                "category": item.get("category") or "",
                "half": item.get("half", "test"),
                "verdict": verdict["verdict"],
                "invalid": verdict["verdict"] not in ("safe", "unsafe"),
            },
        )
        for item, verdict in pair(items, found, "verdicts")
    ]
