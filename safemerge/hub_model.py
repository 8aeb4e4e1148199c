"""What of a model's repository on the hub is fetched, and whether what lies in the hub's cache is a whole model."""

from __future__ import annotations

import json
from pathlib import Path

from safemerge import hub
from safemerge.errors import UserError

#: What transformers and vLLM read of a model; not what lies in folders below (original/, onnx/).
FILES = ("*.json", "*.safetensors", "*.jinja", "*.model")
IGNORE = ("*/*",)


def lacking(folder: Path) -> str | None:
    """The first file of a model that is not in its folder; None if all are there."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    wanted = {"config.json", *([] if index.is_file() else [single.name])}
    if index.is_file():
        try:
            wanted |= set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError):
            return f"{index.name} (that can be read)"
    return next((name for name in sorted(wanted) if not (folder / name).is_file()), None)


def fetched(repo: hub.Repo) -> Path:
    """The folder of a model in the hub's cache, downloaded unless it is there; its name is the commit.

    Raises:
        UserError: it cannot be had whole, with weights as safetensors.
    """
    folder = hub.snapshot(repo, FILES, ignore=IGNORE)
    if name := lacking(folder):
        raise UserError(
            f"{repo} as fetched from the hub has no {name}: is it a model, with its weights as safetensors?"
        )
    return folder


def cached(repo: hub.Repo) -> bool:
    """Whether the whole model lies in the hub's cache."""
    folder = hub.cached(repo, FILES, ignore=IGNORE)
    return folder is not None and lacking(folder) is None
