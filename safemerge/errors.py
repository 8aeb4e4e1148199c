"""The one error type that users are meant to see."""

from __future__ import annotations


class UserError(Exception):
    """Bad input: one line saying what was wrong, its value and what to do. Mains print it and exit with 2."""
