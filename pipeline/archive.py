"""A run as one archive: its folder with the report, and what it uses, but of models the manifests alone.

archive.json                      the run's name, and where the store lies from its folder
run/...                           the run's folder
store/STAGE/KEY/...               rows, adapters, tables, completions, verdicts
manifests/STAGE/KEY/manifest.json of models, which are made or fetched anew where they are needed
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline import integrity
from pipeline.store import MANIFEST
from pipeline.usage import KEY, RUN, USES, Held, held, read, run_folders, used
from safemerge.errors import UserError, first_line

ABOUT = "archive.json"
WORD = re.compile(r"[A-Za-z0-9][\w.+-]*")


def wanted(store: Path, runs: Iterable[Path]) -> set[Path]:
    """The folders of the store that runs have noted as used, whether they are there yet or not."""
    return {
        store / str(name)
        for run in run_folders(store, runs)
        for notes in [read(run / USES)]
        if notes and (run / str(notes.get("store"))).resolve() == store.resolve()
        for name in notes.get("artifacts") or ()
    }


def _is_model(its: Held) -> bool:
    """A prepared model: gigabytes, and made of what is known."""
    return its.stage == "prepare" and any(its.path.glob("*.safetensors"))


def export(store: Path, run: Path, file: Path) -> None:
    """Write a run as a .tar.gz.

    Raises:
        UserError: there is no such run, or an artifact of it is damaged.
    """
    if not (run / RUN).is_file():
        known = ", ".join(sorted(path.parent.name for path in run.parent.glob(f"*/{RUN}"))) or "none"
        raise UserError(f"there is no finished run {run.name} in {run.parent}; there is {known}")
    found = {its.name: its for its in held(store, [run.parent])}
    mine = [found[name] for name in sorted(used(run, store, found))]
    for its in mine:
        if (reason := integrity.damage(its.path, its.path / MANIFEST)) is not None:
            raise UserError(f"{its.name} is damaged ({reason}): run the experiment again, then export")
    about = {"run": run.name, "store": os.path.relpath(store, run)}
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = file.with_name(f".{file.name}.partial")
    try:
        with tarfile.open(whole, "w:gz", compresslevel=6) as archive:
            _add_bytes(archive, ABOUT, json.dumps(about, indent=1).encode())
            for path in sorted(run.rglob("*")):
                if path.is_file() and not path.is_symlink():
                    archive.add(path, f"run/{path.relative_to(run).as_posix()}")
            for its in mine:
                place = "manifests" if _is_model(its) else "store"
                names = [MANIFEST] if _is_model(its) else [*sorted(integrity.records(its.path)), MANIFEST]
                for name in names:
                    archive.add(its.path / name, f"{place}/{its.name}/{name}")
        os.replace(whole, file)
    finally:
        whole.unlink(missing_ok=True)


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def bring(store: Path, runs: Path, file: Path) -> str:
    """Put an archive's run into `runs`, and its artifacts into the store; the run's name. What is there already stays.

    Raises:
        UserError: it is no such archive, holds what lies outside of it or is damaged, or another run has its name.
    """
    runs.mkdir(parents=True, exist_ok=True)
    store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=store, prefix=".import-") as temporary:
        place = Path(temporary)
        _unpack(file, place)
        about = read(place / ABOUT)
        name, old = str(about.get("run", "")), str(about.get("store", ""))
        if not WORD.fullmatch(name) or not old or not (place / "run" / RUN).is_file():
            raise UserError(
                f"{file} is no archive of a run: make one with `python -m pipeline.housekeeping export`"
            )
        target = runs / name
        if target.exists():
            raise UserError(f"{target} is there already: move it away, or give another --runs")
        artifacts = sorted(path for path in (place / "store").glob("*/*") if path.is_dir())
        for path in artifacts:
            if not KEY.fullmatch(path.name) or not WORD.fullmatch(path.parent.name):
                raise UserError(
                    f"{file} holds {path.parent.name}/{path.name}, which is no artifact: do not trust it"
                )
            if (reason := integrity.damage(path, path / MANIFEST)) is not None:
                raise UserError(
                    f"{file}: {path.parent.name}/{path.name} is damaged ({reason}); export it again"
                )
        _repoint(place / "run", old, os.path.relpath(store, target))
        if (place / "manifests").is_dir() and not (place / "run" / "manifests").exists():
            os.replace(place / "manifests", place / "run" / "manifests")
        for path in artifacts:
            there = store / path.parent.name / path.name
            if not there.exists():
                there.parent.mkdir(exist_ok=True)
                os.replace(path, there)
        shutil.move(place / "run", target)
    return name


def _unpack(file: Path, place: Path) -> None:
    """The files of an archive: no links, no devices, nothing outside of `place`."""
    try:
        with tarfile.open(file, "r:gz") as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                inside = not path.is_absolute() and ".." not in path.parts and "\\" not in member.name
                if (
                    not member.isfile()
                    or not inside
                    or path.parts[0] not in (ABOUT, "run", "store", "manifests")
                ):
                    raise UserError(f"{file} holds {member.name!r}, which no export writes: do not trust it")
                source, target = archive.extractfile(member), place / path
                assert source is not None
                target.parent.mkdir(parents=True, exist_ok=True)
                with source, target.open("xb") as stream:
                    shutil.copyfileobj(source, stream)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise UserError(
            f"cannot read {file} ({first_line(error)}): give a whole .tar.gz of an exported run"
        ) from error


def _repoint(run: Path, old: str, new: str) -> None:
    """The paths into the store, where it lies elsewhere from the run's folder than it did."""

    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: turned(its) for key, its in value.items()}
        if isinstance(value, list):
            return [turned(its) for its in value]
        inside = isinstance(value, str) and value.startswith(f"{old}/")
        return f"{new}{value.removeprefix(old)}" if inside else value

    found = read(run / RUN)
    found["runs"] = turned(found.get("runs"))
    (run / RUN).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    notes = read(run / USES)
    (run / USES).write_text(
        json.dumps({"store": new, "artifacts": notes.get("artifacts") or []}, indent=1) + "\n"
    )
