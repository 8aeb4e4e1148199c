"""What is fetched from the Hugging Face hub, and what to do when it does not come: each of its errors as one line."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import socket
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from safemerge.errors import UserError, causes, first_line, full_disk

AGAIN = "run the same command again, which keeps the files that are complete; if that fails too, check the network"
_CHUNK = 1 << 22  # bytes read at once


@dataclass(frozen=True)
class Repo:
    """A model or a data set on the hub, at a revision (None: its main branch)."""

    id: str
    revision: str | None = None
    kind: Literal["model", "dataset"] = "model"

    def __str__(self) -> str:
        return f"{self.id}@{self.revision}" if self.revision else self.id

    @property
    def pinned(self) -> bool:
        """Whether the revision is a full commit hash, which always names the same content."""
        return re.fullmatch("[0-9a-f]{40}", self.revision or "") is not None

    @property
    def page(self) -> str:
        return f"https://huggingface.co/{'datasets/' if self.kind == 'dataset' else ''}{self.id}"


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids to ask the hub, as huggingface_hub reads it."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def reachable(seconds: float = 3.0, address: str | None = None) -> bool:
    """Whether a connection to an address can be opened, by way of the proxy that the environment names for it.

    address: None for the hub (HF_ENDPOINT).
    """
    if offline():
        return False
    url = urlsplit(address or os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    proxy = urllib.request.getproxies().get(url.scheme)
    if proxy and not urllib.request.proxy_bypass(url.hostname or ""):
        url = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        with socket.create_connection((url.hostname or "", port), timeout=seconds):
            return True
    except OSError:
        return False


def commit(repo: Repo, *, online: bool) -> str:
    """The commit that the revision stands for: as the hub says it, else as the hub's cache noted it down.

    Raises:
        UserError: neither knows it.
    """
    from huggingface_hub import HfApi, errors

    try:
        found = HfApi().resolve_revision(
            repo.id, repo_type=repo.kind, revision=repo.revision, local_files_only=not online
        )
    except errors.RevisionResolutionError as error:
        raise UserError(
            f"{repo.id}: the hub is not reached, and its cache does not know the commit of {repo.revision or 'main'}: "
            "go online, or give a full commit hash as the revision"
        ) from error
    except Exception as error:  # as below
        raise explained(error, repo) from error
    return str(found.resolved)


def file(repo: Repo, name: str, *, missing_ok: bool = False) -> Path | None:
    """The local path of one file, downloaded unless it is in the hub's cache; None if there is none and missing_ok is set.

    Raises:
        UserError: it cannot be had.
    """
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return Path(
            huggingface_hub.hf_hub_download(repo.id, name, repo_type=repo.kind, revision=repo.revision)
        )
    except Exception as error:  # the hub's, httpx's and the Xet client's have no base in common
        absent = isinstance(error, errors.EntryNotFoundError)
        if missing_ok and absent and not isinstance(error, errors.LocalEntryNotFoundError):
            return None
        raise explained(error, repo, name) from error


def exists(repo: Repo, name: str) -> bool:
    """Whether a repository has that file: as the hub's cache knows it, else as the hub says; no if neither can tell."""
    import huggingface_hub

    known = huggingface_hub.try_to_load_from_cache(repo.id, name, repo_type=repo.kind, revision=repo.revision)
    if known is not None:
        return isinstance(known, str)
    try:
        return bool(
            huggingface_hub.HfApi().file_exists(repo.id, name, repo_type=repo.kind, revision=repo.revision)
        )
    except (
        Exception
    ):  # the hub's and httpx's errors have no base in common; what must be had is fetched, and says why not
        return False


def other_names(repo: Repo) -> set[str]:
    """The ids under which the hub knows the same model: today's, if it was renamed, and what it is a quantisation of.

    Empty if the hub cannot be asked.
    """
    import huggingface_hub

    if not reachable():
        return set()
    try:
        found = huggingface_hub.HfApi().model_info(repo.id)
    except Exception:  # as above
        return set()
    mark = "base_model:quantized:"
    return {found.id} | {tag.removeprefix(mark) for tag in found.tags or () if tag.startswith(mark)}


def snapshot(repo: Repo, patterns: Sequence[str], *, ignore: Sequence[str] = ()) -> Path:
    """A folder of the files that match the patterns, in the hub's cache and as the hub has them; its name is the commit.

    Raises:
        UserError: they cannot be had, or one of them is damaged, which is then removed.
    """
    try:
        folder = _snapshot(repo, patterns, ignore)
    except Exception as error:  # as above
        raise explained(error, repo) from error
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    for name in names:  # others in the same folder are of another call, which has looked at them
        if _any_matches(name, patterns) and not _any_matches(name, ignore):
            _undamaged(repo, folder / name, name)
    return folder


def _snapshot(repo: Repo, patterns: Sequence[str], ignore: Sequence[str], offline: bool = False) -> Path:
    import huggingface_hub

    folder = huggingface_hub.snapshot_download(
        repo.id,
        repo_type=repo.kind,
        revision=repo.revision,
        allow_patterns=list(patterns),
        ignore_patterns=list(ignore) or None,
        local_files_only=offline,
    )
    return Path(folder)


def _any_matches(name: str, patterns: Sequence[str]) -> bool:
    """As huggingface_hub matches names."""
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def cached(repo: Repo, patterns: Sequence[str], *, ignore: Sequence[str] = ()) -> Path | None:
    """The folder that `snapshot` would give without the network; None if a file is known to be missing from it."""
    from huggingface_hub import errors

    try:
        return _snapshot(repo, patterns, ignore, offline=True)
    except (errors.LocalEntryNotFoundError, errors.HFValidationError, OSError):
        return None


def _undamaged(repo: Repo, path: Path, name: str) -> None:
    """The cache names content by its hash, SHA-256 or (small files) git's SHA-1; downloads are checked by size only.

    Raises:
        UserError: the content is another one. The file is removed, so that the next run fetches it anew.
    """
    blob = path.resolve()
    if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
        return  # a cache without links, which does not know
    digest = hashlib.sha256()
    if len(blob.name) == 40:
        digest = hashlib.sha1(b"blob %d\0" % blob.stat().st_size, usedforsecurity=False)
    with blob.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != blob.name:
        path.unlink(missing_ok=True)
        blob.unlink(missing_ok=True)
        raise UserError(
            f"{name} of {repo} came damaged (its hash is {digest.hexdigest()[:12]}, the hub's {blob.name[:12]}) and was "
            "removed: run the same command again, which fetches it anew"
        )


def explained(error: BaseException, repo: Repo, name: str = "", *, remedy: str = AGAIN) -> UserError:
    """What the user is told when something of a repository (its file `name`) cannot be had.

    remedy: for what none of the hub's own reasons explains.
    """
    from huggingface_hub import constants, errors

    found = list(causes(error))

    def due_to(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in found)

    what = f"{name} of {repo}" if name else str(repo)
    kind = "data set" if repo.kind == "dataset" else repo.kind
    if due_to(errors.GatedRepoError):  # before the missing ones, of which it is one
        text = (
            f"{repo.id} is gated: accept its licence at {repo.page} and set HF_TOKEN (or run `hf auth login`)"
        )
    elif due_to(errors.RevisionNotFoundError):
        text = f"the {kind} {repo.id} has no revision {repo.revision} on the hub: check the revision"
    elif due_to(errors.RepositoryNotFoundError):
        text = f"there is no {kind} {repo.id} on the hub, or HF_TOKEN may not read it: check the name and the token"
    elif due_to(errors.HFValidationError):
        text = f"{repo.id!r} is no name of a {kind} on the hub: give one such as owner/name"
    elif any(full_disk(cause) for cause in found):
        text = f"no space is left for {what} in {constants.HF_HUB_CACHE}: free some, or set HF_HOME to a larger disk"
    elif due_to(PermissionError):
        text = f"{what} cannot be written to {constants.HF_HUB_CACHE}: set HF_HOME to a folder that you may write to"
    elif due_to(errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError, TimeoutError):
        text = f"{what} is not in the hub's cache {constants.HF_HUB_CACHE}, and "
        text += (
            "HF_HUB_OFFLINE=1 forbids to fetch it: unset that"
            if constants.HF_HUB_OFFLINE
            else "the hub cannot be reached: check the network (HF_ENDPOINT, HTTPS_PROXY)"
        )
        text += ", or bring the cache of a machine that has it"
    elif name and due_to(errors.EntryNotFoundError):
        text = f"the {kind} {repo} on the hub has no {name}: is it complete, and of the right kind?"
    else:
        text = f"cannot fetch {what} from the hub ({type(error).__name__}: {first_line(error)}): {remedy}"
    return UserError(text)
