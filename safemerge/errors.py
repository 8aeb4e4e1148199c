"""The one error type that users are meant to see, and others' messages in it."""

from __future__ import annotations


class UserError(Exception):
    """Bad input: one line saying what was wrong, its value and what to do. Mains print it and exit with 2."""


def first_line(error: BaseException) -> str:
    """An exception's message as one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
