"""Where each data set lies: the bundled files, a folder of local copies, or the hub.

Rows come out in the originals' schemas.
"""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

from data import github, harmful, hub_rows
from data.catalogue import find, place_of, reader_of
from data.dataset import BUNDLED_ROOT, Dataset, Source
from data.schema import read_jsonl
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
        return BUNDLED_ROOT / (easier.format(split=split) if easier else dataset.bundled[split])
    if kind == "hub" and given is None:
        return None
    if kind not in ("local", "hub"):
        raise UserError(f"data source {kind!r} is unknown; use bundled, local or hub")
    if given is None and not root:
        raise UserError("data=local needs the folder of the files: set data.root=DIR")
    if given is None and split not in dataset.local:
        raise UserError(f"{name} has no {split} rows in a local copy; it has {', '.join(dataset.local)}")
    path = (Path(root) if root else Path()) / (given.format(split=split) if given else dataset.local[split])
    path = path.expanduser()
    missing = [part for part in dataset.parts(path) if not part.is_file()]
    if missing:
        raise UserError(
            f"the {split} rows of {name} are missing: {missing[0]}; "
            f"put the file there or set ++data.datasets.{name}.file=PATH"
        )
    return path


def read(path: Path, dataset: Dataset) -> list[dict[str, Any]]:
    """Rows of a .jsonl, .json (a list, or Bianchi's object of lists) or .csv file, or of a folder of several."""
    try:
        if path.is_dir() and dataset.read_folder:
            return dataset.read_folder(path)
        if path.suffix == ".csv":
            with path.open(encoding="utf-8", newline="") as file:
                return list(csv.DictReader(file))
        if path.suffix == ".jsonl":
            return read_jsonl(path)
        found = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as {path.suffix or 'JSON'}: {error}") from error
    return harmful.from_columns(found) if isinstance(found, dict) else found


def rows(name: str, split: str, source: Source) -> list[dict[str, Any]]:
    """All rows of the data set's split ("train", "test"; for guard one of `data.guard.SPLITS`)."""
    path, entry, dataset = path_of(name, split, source), place_of(name, source), find(name, source)
    if path is None and dataset.github:
        path = github.fetched(dataset.github, name)
    found = read(path, dataset) if path else hub_rows.rows(dataset, split, entry)
    if dataset.of_hub and path is None:  # the hub's rows are not split yet
        found = dataset.of_hub(found, split, entry)
    if dataset.keep:
        found = [row for row in found if dataset.keep(row)]
    if not found:
        raise UserError(f"{name} ({split}) has no rows in {path or entry.get('id')}")
    return found


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
        files = dataset.parts(path) if path.is_dir() else [path]
        content = [*(file.read_bytes() for file in files), (reader or "").encode()]
        return hashlib.sha256(b"".join(content)).hexdigest()
    if dataset.github:
        return dataset.github.sha256  # as of the same file, given by its path
    known = {key: entry.get(key) for key in ("id", "revision", "config", "split")}
    known |= {"content": dataset.hub_content(entry) if dataset.hub_content else None, "reader": reader}
    return " ".join(f"{key}={value}" for key, value in known.items() if value is not None)
