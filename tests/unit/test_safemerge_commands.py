"""Bad input to any command is one line and exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from safemerge.commands import one_line_errors
from safemerge.errors import UserError


def main(arguments: object = None) -> int:
    """What it does."""
    if arguments == ["mistake"]:
        raise UserError("--tau \x1b[2Jx: give a number")
    if arguments == ["file"]:
        Path("/nowhere/page.md").read_text(encoding="utf-8")
    if arguments == ["fault"]:
        raise OSError("no file has anything to do with it")
    return 3


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("mistake", "error: --tau \\x1b[2Jx: give a number\n"),
        ("file", "error: cannot read or write /nowhere/page.md: No such file or directory\n"),
    ],
)
def test_a_mistake_is_one_line(argument: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert one_line_errors(main)([argument]) == 2
    assert capsys.readouterr() == ("", said)


def test_the_rest_is_as_it_was() -> None:
    assert one_line_errors(main)() == 3
    assert one_line_errors(main).__doc__ == main.__doc__
    with pytest.raises(OSError, match="no file"):
        one_line_errors(main)(["fault"])
