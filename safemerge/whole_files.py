"""Files that are whole: written in one step, and known by the hash of their content. Imports no torch."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def write_whole(path: Path, text: str, *, shared: bool = False) -> None:
    """The file has this text, or stays as it was: a cut one would pass for a finished one.

    shared: other processes may write it at the same time; each then does so by a file of its own.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial" if shared else f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
