"""The data sets by name. One from outside this repository is found by `data.datasets.NAME.target`: package.module.NAME."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from data import gsm8k, guard, harmful, pubmedqa, safety
from data.dataset import Dataset
from safemerge.errors import UserError

KNOWN: dict[str, Dataset] = {
    its.name: its for its in (gsm8k.GSM8K, pubmedqa.PUBMEDQA, *safety.SETS, *harmful.SETS, guard.GUARD)
}


def settings(name: str, source: Mapping[str, Any]) -> dict[str, Any]:
    """The `datasets` entry of `name`, without empty values."""
    entry = (source.get("datasets") or {}).get(name) or {}
    return {key: value for key, value in dict(entry).items() if value is not None}


def find(name: str, source: Mapping[str, Any]) -> Dataset:
    """The data set of that name.

    Raises:
        UserError: there is none.
    """
    target = settings(name, source).get("target")
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


def reader_of(name: str, source: Mapping[str, Any]) -> str | None:
    """Hash of the module that reads a data set from outside; None for our own, whose changes raise the stage's version."""
    target = settings(name, source).get("target")
    if target is None:
        return None
    module = importlib.import_module(str(target).rpartition(".")[0])
    return hashlib.sha256(inspect.getsource(module).encode()).hexdigest()
