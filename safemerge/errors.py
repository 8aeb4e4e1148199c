"""The one error type that users are meant to see, and others' messages in it."""

from __future__ import annotations

import errno
from collections.abc import Iterator


class UserError(Exception):
    """Bad input: one line saying what was wrong, its value and what to do. Mains print it and exit with 2."""


def first_line(error: BaseException) -> str:
    """An exception's message as one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those that it was raised from or while handling."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def full_disk(error: BaseException) -> bool:
    """Also as the Xet client and safetensors say it, whose errors are text."""
    return (
        getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "no space left" in str(error).lower()
    )
