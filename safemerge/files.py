"""The files of models and adapters, in a folder or on the hub, found and read without torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from safemerge import hub
from safemerge.errors import UserError, first_line

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
BIN_SINGLE, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
# What loading a model needs beside its weights: settings, its own code, whatever a tokenizer or processor is made of.
COMPANIONS = ("*.json", "*.py", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.spm", "*.bpe", "*.vocab")
TERMS = ("LICENSE*", "NOTICE*", "USE_POLICY*")  # what may be passed on together with them only
_TOKENIZER = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.jinja",
)
_ELSEWHERE = ("*.index.json", "adapter_config.json", "trainer_state.json", "requirements*.txt")


def is_folder(reference: str | Path) -> bool:
    """Whether that is a folder here; no for what cannot even be a path."""
    try:
        return Path(reference).expanduser().is_dir()
    except (OSError, ValueError, RuntimeError):  # too long, a zero byte, the home of an unknown user
        return False


def split_reference(reference: str) -> tuple[str, str | None]:
    """'org/name@revision' -> ('org/name', 'revision'); a local folder is returned as it is."""
    if is_folder(reference) or "@" not in reference:
        return reference, None
    name, _, revision = reference.partition("@")
    return name, revision


def looks_like_hub_id(reference: str) -> bool:
    """Whether that is of the form org/name or org/name/folder, with or without @revision."""
    name = split_reference(reference)[0]
    parts = name.split("/")
    return len(parts) > 1 and all(parts) and not name.startswith((".", "~", "\\")) and "\0" not in name


def on_hub(reference: str) -> tuple[hub.Repo, str]:
    """The repository that org/name or org/name/sub/folder (@revision) means, and the folder in it with its slash, or "".

    Raises:
        UserError: it is no folder here and cannot be a repository.
    """
    name, revision = split_reference(reference)
    if not looks_like_hub_id(reference) and ("/" in name or not name or name.startswith((".", "~"))):
        raise UserError(f"no folder {reference}; give an existing folder or a hub id such as org/name")
    parts = name.split("/")
    if len(parts) > 2 and is_folder(parts[0]):
        raise UserError(f"no folder {reference}; {parts[0]} is a folder here, and has no such folder in it")
    folder = "/".join(parts[2:])
    return hub.Repo("/".join(parts[:2]), revision), f"{folder}/" if folder else ""


def fetch(reference: str, filename: str, *, missing_ok: bool = False) -> Path | None:
    """The local path of one file of a model: in its folder, or downloaded from the hub.

    UserError if the model cannot be had at all; None if only this file is absent and missing_ok is set.
    """
    if is_folder(reference):
        folder = Path(reference).expanduser()
        path = folder / filename
        if path.is_file():
            return path
        if missing_ok:
            return None
        raise UserError(f"{folder} has no {filename}; is it a model folder, and is it complete?")
    repo, inside = on_hub(reference)
    return hub.file(repo, inside + filename, missing_ok=missing_ok)


def exists(reference: str, filename: str) -> bool:
    """Whether a model has that file, as far as can be told without downloading it."""
    if is_folder(reference):
        return (Path(reference).expanduser() / filename).is_file()
    repo, inside = on_hub(reference)
    return hub.exists(repo, inside + filename)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, with or without a byte-order mark. UserError if it is not one."""
    try:
        data = path.read_bytes()
        if data.startswith(LFS_POINTER):
            raise pointer(path)
        content = json.loads(data.decode("utf-8-sig"))
    except RecursionError:
        raise UserError(f"cannot read {path}: it is nested too deeply; save it again") from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {first_line(error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object, not a {type(content).__name__}")
    return content


def pointer(path: Path) -> UserError:
    """What is said of a git-lfs pointer in the place of a file."""
    return UserError(
        f"{path} is a git-lfs pointer, not the file itself; run `git lfs pull` in its folder, or download it again"
    )


def check_whole(path: Path) -> Path:
    """The path of a file that is one. UserError if git-lfs left a pointer in its place."""
    with open(path, "rb") as handle:
        if handle.read(len(LFS_POINTER)) == LFS_POINTER:
            raise pointer(path)
    return path


def weight_map(reference: str) -> tuple[str | None, dict[str, str]]:
    """(the single weight file, {}) of a model, or (None, tensor name -> shard): those that transformers would load.

    Safetensors come before .bin. model.safetensors comes before an index whose shards are gone, as transformers has it.

    Raises:
        UserError: there are none, or two sets of them: transformers loads the single file, vLLM the shards.
    """
    for index_name, single in ((INDEX, SINGLE), (BIN_INDEX, BIN_SINGLE)):
        index = fetch(reference, index_name, missing_ok=True)
        if index is None:
            if fetch(reference, single, missing_ok=True):
                return single, {}
            continue
        shards = _shards(index)
        if single in shards.values() or not exists(reference, single):
            return None, shards
        if not any(exists(reference, name) for name in set(shards.values())):
            return single, {}
        raise UserError(
            f"{reference} holds two sets of weights, {single} and the shards of {index_name}: transformers reads the "
            "first, vLLM the second; delete the one that is out of date"
        )
    raise UserError(
        f"{reference} has neither {SINGLE} nor {INDEX} (nor {BIN_SINGLE}); {_what_it_is(reference)}"
    )


def _shards(index: Path) -> dict[str, str]:
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise UserError(f"{index} has no weight_map of tensor names to files; save the model again")
    for tensor, filename in found.items():
        if not isinstance(filename, str) or Path(filename).name != filename or filename in ("", ".", ".."):
            raise UserError(
                f"{index} has {filename!r} as the file of {tensor}; it must be a file beside the index"
            )
    return found


def _what_it_is(reference: str) -> str:
    """Of a folder without a model's weights, what it seems to be instead."""
    folder = Path(reference).expanduser()
    if not is_folder(reference):
        return "is it a model?"
    if (folder / "adapter_config.json").is_file():
        return "it is an adapter; give the model that it was trained on"
    if any(folder.glob("*.gguf")):
        return "it holds a GGUF file; give the checkpoint in safetensors that it was made from"
    if any(folder.glob("model-*.safetensors")):
        return f"it holds shards without their index; copy {INDEX} too"
    return "is it a model folder?"


def companions(reference: str, *, tokenizer: bool = False) -> dict[str, Path]:
    """Everything that loading a model needs beside its weights, by its name in the folder; or its tokenizer's files alone.

    The model's own code and chat templates are looked for in subfolders too. Of a model on the hub, they are downloaded.

    Raises:
        UserError: git-lfs left a pointer in the place of one.
    """
    if is_folder(reference):
        root = Path(reference).expanduser()
    else:
        repo, inside = on_hub(reference)
        root = hub.snapshot(repo, [inside + pattern for pattern in (*COMPANIONS, *TERMS)]) / inside
    wanted = _TOKENIZER if tokenizer else COMPANIONS + TERMS
    found = {}
    for path in sorted(_walk(root)):
        name = path.relative_to(root)
        if any(fnmatch(path.name, pattern) for pattern in _ELSEWHERE):
            continue
        deep = len(name.parts) > 1 and path.suffix not in (".py", ".jinja")
        if not deep and any(fnmatch(path.name, pattern) for pattern in wanted):
            found[name.as_posix()] = check_whole(path)
    return found


def _walk(folder: Path) -> Iterator[Path]:
    """The files in a folder and in its subfolders, but for hidden ones, linked folders, and other models and adapters."""
    for path in folder.iterdir():
        if path.name.startswith((".", "__pycache__")):
            continue
        if path.is_file():
            yield path
        elif path.is_dir() and not path.is_symlink() and not _is_other(path):
            yield from _walk(path)


def _is_other(folder: Path) -> bool:
    """Whether a folder inside a model's is another model's, or an adapter's."""
    return any((folder / name).exists() for name in ("config.json", "adapter_config.json"))
