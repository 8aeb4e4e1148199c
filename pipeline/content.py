"""What things outside the store contain, as hashes: a key covers content, never a path."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.guard_format import Question
from pipeline.store import digest
from safemerge.errors import UserError
from safemerge.whole_files import file_hash, write_whole

MODEL_FILES = {".json", ".safetensors", ".bin", ".model", ".jinja", ".txt", ".py"}
LARGE = 64 << 20  # bytes; from here on a file is hashed once and the hash noted down


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in short. Of a large one as it was noted down when it had this size, inode and time."""
    found = path.stat()
    if found.st_size < LARGE:
        return file_hash(path)[:20]
    notes = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "safemerge" / "digests.json"
    name = f"{path.resolve()} {found.st_size} {found.st_ino} {found.st_mtime_ns}"
    known: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError, TypeError):
        known = dict(json.loads(notes.read_text()))
    if name not in known:
        known[name] = file_hash(path)[:20]
        with contextlib.suppress(OSError):  # a home that cannot be written costs time only
            notes.parent.mkdir(parents=True, exist_ok=True)
            write_whole(notes, json.dumps(known, indent=1), shared=True)
    return known[name]


def folder_digest(folder: Path, suffixes: Iterable[str] = MODEL_FILES) -> str:
    """Hash of a folder's files with these endings, by their names in it.

    Raises:
        UserError: there are none.
    """
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in set(suffixes))
    if not files:
        raise UserError(f"no model in {folder}: give the folder that holds config.json and the weights")
    return digest({str(path.relative_to(folder)): file_digest(path) for path in files})


def package_file(package: str, file: str) -> Path | None:
    """A file of an installed package; None if the package is not there, or has no such file."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / file
    return path if path.is_file() else None


def wording(judge: Callable[..., Any]) -> str:
    """Hash of what a judge's verdicts depend on besides its settings: a guard's prompt and words, a rubric, phrases."""
    code = inspect.getsource(inspect.getmodule(judge) or judge)
    if judge.__module__.partition(".")[0] != "evaluation":
        return digest(code)  # from outside this repository: no version of a stage is raised when it changes
    if hasattr(judge, "prompt") and hasattr(judge, "words"):
        guard = judge()
        asked = guard.prompt("{prompt}", "{reply}")
        if not isinstance(asked, str):  # turns, or several questions
            asked = [asdict(part) if isinstance(part, Question) else part for part in asked]
        return digest({"prompt": asked, "words": guard.words})
    rubric = inspect.signature(judge).parameters.get("rubric")
    return digest(
        code if rubric is None else rubric.default
    )  # code: phrases and their rules, which cost nothing to apply


def sources(*modules: str) -> str:
    """Hash of the code of these modules and packages of ours, which are not imported for it."""
    root = Path(__file__).resolve().parent.parent
    files: list[Path] = []
    for module in modules:
        place = root / module.replace(".", "/")
        files += sorted(place.glob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    return digest([path.read_text() for path in files])
