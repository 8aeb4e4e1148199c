"""What must not reach a terminal, a log or a file: secrets of the environment, and characters that steer a terminal."""

from __future__ import annotations

import os
import re

#: Names of environment variables whose values are secrets.
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW", re.IGNORECASE)
_SHORTEST = 8  # characters: a shorter value may be a word of any text
#: C0 and C1 control characters but tab and line feed, those that turn the direction of what follows, halves of a character.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def hidden(text: str, *more: str) -> str:
    """The text without the values of environment variables that are keys, tokens or passwords, and without `more`."""
    values = {v for name, v in os.environ.items() if _SECRET.search(name)} | set(more)
    values = {value for value in values if len(value) >= _SHORTEST}
    for value in sorted(values, key=len, reverse=True):  # one may be a part of another
        text = text.replace(value, "***")
    return text


def visible(text: str) -> str:
    """The text as a terminal may show it: characters that would steer it are spelt out, as in \\x1b."""
    return _STEERING.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
