"""Which run uses which artifact of a store.

A run notes what it uses in `uses.json` of its folder, before it looks for it, so that an unfinished run counts as well. The
store notes in `runs.txt` which folders of runs have used it. What an artifact was made from is used with it: its manifest
names the keys.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.store import MANIFEST
from safemerge.whole_files import write_whole

USES, RUN, FOLDERS = "uses.json", "run.json", "runs.txt"
KEY = re.compile(r"[0-9a-f]{20}")
#: Beside the artifacts: work that was interrupted, what was set aside, what is being removed.
LEFT_OVER = (".partial", ".damaged", ".removed")


class Uses:
    """What one run uses, as it is noted in its folder. With no folder nothing is noted."""

    def __init__(self, folder: Path | None, store: Path) -> None:
        self.folder, self.store = folder, store
        self.names: set[str] = set()

    def add(self, names: Iterable[str]) -> None:
        """Artifacts as `stage/key`."""
        new = set(names) - self.names
        if not new or self.folder is None:
            return
        self.names |= new
        content = {"store": os.path.relpath(self.store, self.folder), "artifacts": sorted(self.names)}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / USES, json.dumps(content, indent=1) + "\n", shared=True)
        self._known(self.folder.parent)

    def _known(self, runs: Path) -> None:
        self.store.mkdir(parents=True, exist_ok=True)
        if str(runs) not in known_folders(self.store):
            with (self.store / FOLDERS).open("a", encoding="utf-8") as stream:
                stream.write(f"{runs}\n")


def known_folders(store: Path) -> list[str]:
    """The folders of runs that have used the store."""
    try:
        return (store / FOLDERS).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def forgotten(store: Path, folders: set[str]) -> None:
    """Strike folders of runs that are gone off the list."""
    known = known_folders(store)
    if folders & set(known):
        whole = store / f"{FOLDERS}.partial"
        whole.write_text("".join(f"{its}\n" for its in known if its not in folders), encoding="utf-8")
        os.replace(whole, store / FOLDERS)


@dataclass(frozen=True)
class Held:
    """One artifact of a store."""

    stage: str
    key: str
    path: Path
    manifest: dict[str, Any]
    size: int  # bytes
    runs: list[str] = field(default_factory=list)  # that use it, by name

    @property
    def name(self) -> str:
        return f"{self.stage}/{self.key}"


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_symlink() or path.is_file())


def read(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is none that can be read."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def held(store: Path, runs: Iterable[Path]) -> list[Held]:
    """The artifacts of a store with the runs that use them: those in `runs` and in all folders the store knows."""
    places = [path for path in sorted(store.glob("*/*")) if KEY.fullmatch(path.name) and path.is_dir()]
    found = {
        f"{path.parent.name}/{path.name}": Held(
            path.parent.name, path.name, path, read(path / MANIFEST), size_of(path)
        )
        for path in places
    }
    for folder in run_folders(store, runs):
        for name in used(folder, store, found):
            found[name].runs.append(folder.name)
    return list(found.values())


def run_folders(store: Path, runs: Iterable[Path]) -> list[Path]:
    """The folders of single runs that may use the store."""
    parents = {its.absolute() for its in [*runs, *map(Path, known_folders(store))]}
    return sorted(
        folder
        for parent in parents
        for folder in (parent.iterdir() if parent.is_dir() else ())
        if (folder / USES).exists() or (folder / RUN).exists()
    )


def used(run: Path, store: Path, found: dict[str, Held]) -> set[str]:
    """What a run uses of a store's artifacts, by `stage/key`, with all that these were made from."""
    notes = read(run / USES)
    names: set[str] = set()
    if notes and (run / str(notes.get("store"))).resolve() == store.resolve():
        names |= set(map(str, notes.get("artifacts") or ()))
    of_key = {its.key: name for name, its in found.items()}
    shown = set(_paths(read(run / RUN), run, store.resolve())) & set(found)
    names |= shown
    # Runs of before they noted what they use: the checks of a run were made from all that it shows, and from more.
    checks = [its for its in found.values() if its.stage == "check" and shown]
    names |= {its.name for its in checks if shown <= {of_key.get(key) for key in _inputs(its)}}
    todo, seen = [name for name in names if name in found], set[str]()
    while todo:
        if (name := todo.pop()) not in seen:
            seen.add(name)
            todo += [of_key[key] for key in _inputs(found[name]) if key in of_key]
    return seen


def _inputs(its: Held) -> list[str]:
    """The keys of what it was made from."""
    inputs = its.manifest.get("inputs")
    return [str(key) for key in inputs.values()] if isinstance(inputs, dict) else []


def _paths(value: Any, run: Path, store: Path) -> Iterator[str]:
    """The artifacts that the texts in a run.json are paths into."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for its in value:
            yield from _paths(its, run, store)
    elif isinstance(value, str) and "/" in value and len(value) < 1000:
        place = Path(os.path.normpath(run.resolve() / value))
        if place.is_relative_to(store) and len(parts := place.relative_to(store).parts) >= 2:
            yield "/".join(parts[:2])
