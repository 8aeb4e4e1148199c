"""What is fetched from the Hugging Face hub, and what to do when it does not come: each of its errors as one line."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from safemerge.errors import UserError, first_line

_FULL = (errno.ENOSPC, errno.EDQUOT)
AGAIN = "run the same command again, which goes on where it stopped; if that fails too, check the network"


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


def reachable(seconds: float = 3.0) -> bool:
    """Whether a connection to the hub (or HF_ENDPOINT) can be opened."""
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return False
    url = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
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


def snapshot(repo: Repo, patterns: Sequence[str]) -> Path:
    """A folder of the files that match the patterns, in the hub's cache; its name is the commit.

    Raises:
        UserError: they cannot be had.
    """
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(
                repo.id, repo_type=repo.kind, revision=repo.revision, allow_patterns=list(patterns)
            )
        )
    except Exception as error:  # as above
        raise explained(error, repo) from error


def explained(error: BaseException, repo: Repo, name: str = "", *, remedy: str = AGAIN) -> UserError:
    """What the user is told when something of a repository (its file `name`) cannot be had.

    remedy: for what none of the hub's own reasons explains.
    """
    from huggingface_hub import constants, errors

    causes = list(_causes(error))

    def due_to(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

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
    elif any(_full_disk(cause) for cause in causes):
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


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those that it was raised from or while handling."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _full_disk(error: BaseException) -> bool:
    """Also as the Xet client says it, whose errors are text."""
    return getattr(error, "errno", None) in _FULL or "no space left" in str(error).lower()
