"""Rows of a data set on the hub, by way of files in the hub's cache: at one commit, checked, and read without the network.

`datasets.load_dataset(ID)` is not asked: where the hub fails it takes what it prepared last of that name, of any revision.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.dataset import Dataset, Place
from safemerge import hub
from safemerge.errors import UserError, first_line

CARD = "README.md"
#: Endings, and the loader of `datasets` that reads them.
LOADERS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json"}

Get = Callable[[hub.Repo, list[str]], Path | None]


def repository(dataset: Dataset, entry: Place) -> hub.Repo:
    """Where it lies.

    Raises:
        UserError: no id is given.
    """
    if "id" not in entry:
        raise UserError(
            f"{dataset.name} has no hub id: set ++data.datasets.{dataset.name}.id=OWNER/NAME, or use "
            "data=local data.root=DIR"
        )
    return hub.Repo(str(entry["id"]), entry.get("revision"), "dataset")


def rows(dataset: Dataset, split: str, entry: Place) -> list[dict[str, Any]]:
    """The rows of a split.

    Raises:
        UserError: they cannot be had.
    """
    repo = repository(dataset, entry)
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            "data=hub needs the package 'datasets': run `make setup`, or use data=bundled"
        ) from error
    if dataset.read_folder:
        # As they are: datasets would take a header-less file's first row for its header.
        return dataset.read_folder(hub.snapshot(repo, dataset.files))
    found = _files(repo, dataset, split, entry, hub.snapshot) or []
    kinds = {LOADERS.get(path.suffix, "") for path in found}
    if len(kinds) != 1 or "" in kinds:
        raise UserError(
            f"the files of the data set {repo} are of no one kind that is read here ({', '.join(LOADERS)}): "
            f"{', '.join(path.name for path in found) or 'there are none'}"
        )
    try:
        paths = [str(path) for path in found]
        loaded = datasets.load_dataset(kinds.pop(), data_files=paths, split="train")
    except Exception as error:  # its own, pyarrow's, the parsers': they have no base in common
        raise UserError(
            f"the data set {repo} cannot be read: {first_line(error.__cause__ or error)}"
        ) from error
    return [dict(row) for row in loaded]


def at_hand(dataset: Dataset, split: str, entry: Place) -> bool:
    """Whether the rows of a split can be read without the network."""
    repo = repository(dataset, entry)
    if dataset.read_folder:
        folder = hub.cached(repo, dataset.files)
        return folder is not None and all((folder / name).is_file() for name in dataset.files)
    return bool(_files(repo, dataset, split, entry, hub.cached))


def _files(repo: hub.Repo, dataset: Dataset, split: str, entry: Place, get: Get) -> list[Path] | None:
    """The files of a split: as the repository's card lists them, else by their names. None if the cache lacks one."""
    from datasets.data_files import EmptyDatasetError, get_data_patterns, resolve_pattern, sanitize_patterns

    folder = get(repo, [CARD])
    if folder is None:
        return None
    patterns, wanted = _listed(repo, folder / CARD, entry.get("config")), str(entry.get("split") or "")
    wanted = wanted or dataset.hub_split.get(split, split)
    folder = get(repo, [CARD, *(_flat(patterns) if patterns else ["*"])])
    if folder is None:
        return None
    try:
        by_split = sanitize_patterns(patterns) if patterns else get_data_patterns(str(folder))
        names = {str(name): list(its) for name, its in by_split.items()}
        if wanted not in names:
            raise UserError(
                f"the data set {repo} has no split {wanted!r}, but {', '.join(names)}: set "
                f"++data.datasets.{dataset.name}.split, or check its id, config and revision"
            )
    except (FileNotFoundError, EmptyDatasetError):
        return []
    found: dict[Path, None] = {}
    for pattern in names[wanted]:
        with contextlib.suppress(FileNotFoundError):  # of several by name, not all are there
            found |= dict.fromkeys(Path(path) for path in resolve_pattern(pattern, str(folder)))
    return [path for path in found if path.name != CARD]


def _listed(repo: hub.Repo, card: Path, config: str | None) -> Any:
    """The `data_files` of a config in a data card; None where the card lists none.

    Raises:
        UserError: the card lists configs, and not this one.
    """
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard

    try:
        listed: Any = (
            MetadataConfigs.from_dataset_card_data(DatasetCard.load(card).data) if card.is_file() else {}
        )
        name = config or (listed.get_default_config_name() if listed else None)
    except ValueError as error:
        raise UserError(f"{CARD} of the data set {repo} cannot be read: {first_line(error)}") from error
    if listed and name not in listed:
        raise UserError(
            f"the data set {repo} has no config {name!r}, but {', '.join(listed)}: check its config and revision"
        )
    return listed[name].get("data_files") if listed and name else None


def _flat(patterns: Any) -> list[str]:
    """All patterns of a config, whichever of the forms that a card may have."""
    if isinstance(patterns, str):
        return [patterns]
    if isinstance(patterns, dict):
        return [pattern for its in patterns.values() for pattern in _flat(its)]
    return [one for its in patterns for one in _flat(its["path"] if isinstance(its, dict) else its)]
