"""Files that are on GitHub only: fetched at a commit, checked by their hash, and kept beside the hub's cache."""

from __future__ import annotations

import hashlib
import os
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from safemerge import hub
from safemerge.errors import UserError, first_line

RAW = "https://raw.githubusercontent.com"
TIMEOUT_S = 30.0
#: The collection of Bianchi et al. (2024), CC BY-NC 4.0: its newest commit when these hashes were taken.
BIANCHI, BIANCHI_COMMIT = "vinid/safety-tuned-llamas", "36a4b8d5c2177ed165bf61f59b590161394f7f12"


@dataclass(frozen=True)
class GithubFile:
    """A file of a repository at a commit, with the SHA-256 of its content."""

    repository: str
    commit: str
    path: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.path} of github.com/{self.repository} at {self.commit}"

    @property
    def place(self) -> Path:
        """Where it is kept once fetched; it may also be put there by hand."""
        from huggingface_hub import constants

        return Path(constants.HF_HOME) / "github" / self.repository / self.commit / self.path


def reachable() -> bool:
    """Whether GitHub answers."""
    return hub.reachable(address=RAW)


def fetched(file: GithubFile, name: str) -> Path:
    """The path of the file, downloaded unless it is there.

    name: the data set's, for what is said where the file cannot be had.

    Raises:
        UserError: GitHub does not give it, or what lies there is another one.
    """
    if not file.place.is_file():
        _download(file, name)
    found = hashlib.sha256(file.place.read_bytes()).hexdigest()
    if found != file.sha256:
        raise UserError(
            f"{file.place} is not {file}: its SHA-256 is {found}, not {file.sha256}; delete it and run again"
        )
    return file.place


def _download(file: GithubFile, name: str) -> None:
    url = f"{RAW}/{file.repository}/{file.commit}/{file.path}"
    try:
        if hub.offline():
            raise OSError("HF_HUB_OFFLINE forbids to ask")
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            content = answer.read()
        if (found := hashlib.sha256(content).hexdigest()) != file.sha256:
            raise OSError(f"what came has the SHA-256 {found}, not {file.sha256}")
    except (OSError, HTTPException) as error:  # URLError is an OSError
        raise UserError(
            f"{name} is not on the hub, and GitHub does not give it ({first_line(error) or type(error).__name__}): get "
            f"{file} and set ++data.datasets.{name}.file=PATH"
        ) from error
    try:
        file.place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.place.parent, delete=False) as stream:
            stream.write(content)
        os.replace(stream.name, file.place)
    except OSError as error:
        raise UserError(
            f"{name} cannot be written to {file.place}: {error.strerror or error}; set HF_HOME to another folder"
        ) from error
