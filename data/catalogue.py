"""The data sets by name. One from outside this repository is found by `data.datasets.NAME.target`: package.module.NAME."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from typing import cast

from data import gsm8k, guard, harmful, pubmedqa, safety
from data.dataset import Dataset, Place, Source
from safemerge.errors import UserError

KNOWN: dict[str, Dataset] = {
    its.name: its for its in (gsm8k.GSM8K, pubmedqa.PUBMEDQA, *safety.SETS, *harmful.SETS, guard.GUARD)
}


def place_of(name: str, source: Source) -> Place:
    """The `datasets` entry of `name`, without empty values."""
    entry = source.get("datasets", {}).get(name) or {}
    return cast(Place, {key: value for key, value in entry.items() if value is not None})


def find(name: str, source: Source) -> Dataset:
    """The data set of that name.

    Raises:
        UserError: there is none.
    """
    target = place_of(name, source).get("target")
    if target is None:
        if name in KNOWN:
            return KNOWN[name]
        raise UserError(
            f"there is no data set {name!r}; use one of {', '.join(sorted(KNOWN))}, or name your own by "
            f"++data.datasets.{name}.target=package.module.NAME"
        )
    module, _, attribute = str(target).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"data.datasets.{name}.target={target} names nothing: {error}") from error
    if not isinstance(found, Dataset):
        raise UserError(f"data.datasets.{name}.target={target} is a {type(found).__name__}, not a Dataset")
    return found


def reader_of(name: str, source: Source) -> str | None:
    """Hash of the module that reads a data set from outside; None for our own, whose changes raise the stage's version."""
    target = place_of(name, source).get("target")
    if target is None:
        return None
    module = importlib.import_module(str(target).rpartition(".")[0])
    return hashlib.sha256(inspect.getsource(module).encode()).hexdigest()
