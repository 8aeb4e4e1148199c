"""What models lack is said once where all lack it."""

from __future__ import annotations

import pytest

from pipeline.lacks import said


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"a": [], "b": []}, ["a, b: all there"]),
        ({"a": ["1 GB"], "b": ["2 GB"]}, ["all lack 2 GB"]),
        ({"a": ["9.5 GB", "a token"], "b": ["10.5 GB"]}, ["all lack 10.5 GB", "a also lacks a token"]),
        ({"a": ["8 GB"], "b": [], "c": ["9 GB"]}, ["a, c lack 9 GB", "b: all there"]),
    ],
)
def test_what_all_lack_is_said_once(found: dict[str, list[str]], expected: list[str]) -> None:
    assert said(found) == expected
