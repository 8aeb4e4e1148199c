"""Rows as they lie in the store: what is written is read back, and a bad line is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.schema import Completion, Example, GuardRow, Item, Verdict, read_jsonl, read_rows, write_jsonl
from safemerge.errors import UserError


@pytest.mark.parametrize(
    "row",
    [
        Example("a", "line\u2028one", "two\nthree", "c"),
        Item("b", "p", "r", "c", "dev", "harmful"),
        GuardRow("c", "p", "r", "unsafe", "S2", "direct"),
        Completion("d", "p", "one\x85\n two", 12, 20, "length", [5, 0, 7]),
        Verdict("e", "invalid", None, None, "odd\r\n"),
        Verdict("f", "unsafe", 0.1 + 0.2, "S1,S10", "unsafe"),
    ],
)
def test_jsonl_round_trip(tmp_path: Path, row: object) -> None:
    write_jsonl(tmp_path / "a.jsonl", [row, row])
    assert read_rows(tmp_path / "a.jsonl", type(row)) == [row, row]


def test_a_bad_line_names_its_file_and_number(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "a", "verdict": "safe"}\n\n{oops\n')
    with pytest.raises(UserError, match=r"rows\.jsonl, line 3 is not JSON"):
        read_jsonl(path)
    for extra, problem in (('"p": 1, "verdict": "safe"', "'p'"), ('"raw": ""', "'verdict'")):
        path.write_text(f'{{"id": "a", "verdict": "safe"}}\n{{"id": "b", {extra}}}\n')
        with pytest.raises(UserError, match=rf"rows\.jsonl, row 2 is no Verdict: .*{problem}"):
            read_rows(path, Verdict)
    with pytest.raises(UserError, match=r"cannot read .*gone\.jsonl"):
        read_rows(tmp_path / "gone.jsonl", Verdict)
