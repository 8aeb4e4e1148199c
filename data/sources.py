"""Where each data set lies: the bundled files, a folder of local copies, or the hub.

Rows come out in the originals' schemas.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from data import files, github, hub_rows
from data.catalogue import find, place_of, reader_of
from data.dataset import BUNDLED_ROOT, Dataset, Source
from safemerge.errors import UserError


def path_of(name: str, split: str, source: Source) -> Path | None:
    """The file that holds the split, or None for the hub or GitHub. Missing files and unknown sources are errors."""
    dataset, place = find(name, source), place_of(name, source)
    kind, root, given = source.get("source"), source.get("root"), place.get("file")
    bundled_only = not dataset.local and "id" not in place and given is None
    if kind == "bundled" or bundled_only:
        if split not in dataset.bundled:
            raise UserError(
                f"{name} ({split}) is not part of the bundled data; use data=local data.root=DIR or data=hub"
            )
        # A model too small for the bundled problems names easier ones beside them; other sources ignore the key.
        easier = place.get("bundled")
        return BUNDLED_ROOT / (easier.replace("{split}", split) if easier else dataset.bundled[split])
    if kind == "hub" and given is None:
        return None
    if kind not in ("local", "hub"):
        raise UserError(f"data source {kind!r} is unknown; use bundled, local or hub")
    if given is None and not root:
        raise UserError("data=local needs the folder of the files: set data.root=DIR")
    if given is None and split not in dataset.local:
        raise UserError(f"{name} has no {split} rows in a local copy; it has {', '.join(dataset.local)}")
    # Not by str.format: a path may hold braces of its own.
    chosen = given.replace("{split}", split) if given else dataset.local[split]
    path = ((Path(root) if root else Path()) / chosen).expanduser()
    missing = [part for part in dataset.parts(path) if not _is_file(part)]
    if missing:
        raise UserError(
            f"the {split} rows of {name} are missing: {missing[0]}; "
            f"put the file there or set ++data.datasets.{name}.file=PATH"
        )
    if _both(name, source) and not dataset.divided:
        raise UserError(
            f"{name}: {path} is given for its training and its test rows, which would test a model on what it has learnt; "
            f"give two files, as in ++data.datasets.{name}.file='DIR/{{split}}{path.suffix}'"
        )
    return path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or holds a NUL; a loop of links
        return False


def _both(name: str, source: Source) -> bool:
    """Whether one file of the user's own is given for the training and the test rows of one of our sets."""
    dataset, place = find(name, source), place_of(name, source)
    given = place.get("file")
    ours = "target" not in place  # one from outside may divide its file by itself
    return bool(given and "{split}" not in given and ours and dataset.examples and dataset.items)


def read(path: Path, dataset: Dataset) -> list[dict[str, Any]]:
    """Rows of a file (`data.files.read`), or of a folder of several."""
    if path.is_dir() and dataset.read_folder:
        return dataset.read_folder(path)
    return files.read(path, dataset.of_object, dataset.plausible)


def rows(name: str, split: str, source: Source) -> list[dict[str, Any]]:
    """All rows of the data set's split ("train", "test"; for guard one of `data.guard.SPLITS`)."""
    path, entry, dataset = path_of(name, split, source), place_of(name, source), find(name, source)
    of_hub = path is None and not dataset.github
    if path is None and dataset.github:
        path = github.fetched(dataset.github, name)
    found = read(path, dataset) if path else hub_rows.rows(dataset, split, entry)
    if dataset.divided and (of_hub or _both(name, source)):
        found = dataset.divided(found, split, entry)
        if not found:
            raise UserError(
                f"{name}: {path or entry.get('id')} has no {split} rows by its list of test ids; give a file that has, "
                f"or a list of your own: ++data.datasets.{name}.test_ids=PATH"
            )
    if dataset.keep:
        found = [row for row in found if dataset.keep(row)]
    if not found:
        raise UserError(f"{name} ({split}) has no rows in {path or entry.get('id')}")
    return found


def where(name: str, split: str, source: Source) -> str:
    """Where the rows come from, for an error's line: the file, or the id on the hub."""
    github_file = find(name, source).github
    return str(path_of(name, split, source) or github_file or place_of(name, source).get("id"))


def at_hand(name: str, split: str, source: Source) -> bool:
    """Whether the split can be read without the network."""
    path, entry, dataset = path_of(name, split, source), place_of(name, source), find(name, source)
    if path is None and dataset.github:
        return dataset.github.place.is_file()
    return path is not None or hub_rows.at_hand(dataset, split, entry)


def fingerprint(name: str, split: str, source: Source) -> str:
    """What the split's content depends on: a hash of its file; of the hub in words, as in "id=a/b revision=HASH"."""
    path, entry, dataset = path_of(name, split, source), place_of(name, source), find(name, source)
    reader = reader_of(name, source)
    if path:
        parts = dataset.parts(path) if path.is_dir() else [path]
        content = [*(files.bytes_of(part) for part in parts), (reader or "").encode()]
        if path.parent != BUNDLED_ROOT and dataset.reading > 1:
            content.append(f"reading {dataset.reading}".encode())
        if dataset.division and _both(name, source):
            content.append(dataset.division(entry).encode())
        return hashlib.sha256(b"".join(content)).hexdigest()
    if dataset.github:
        return dataset.github.sha256  # as of the same file, given by its path
    known = {key: entry.get(key) for key in ("id", "revision", "config", "split")}
    known |= {"content": dataset.division(entry) if dataset.division else None, "reader": reader}
    return " ".join(f"{key}={value}" for key, value in known.items() if value is not None)
