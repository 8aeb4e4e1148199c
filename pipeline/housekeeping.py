"""The store's artifacts, with size, age and the runs that use them; what no run uses can be removed, a run taken elsewhere.

python -m pipeline.housekeeping list
python -m pipeline.housekeeping prune [--yes]
python -m pipeline.housekeeping export RUN FILE.tar.gz
python -m pipeline.housekeeping import FILE.tar.gz
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline import archive
from pipeline.store import MANIFEST
from pipeline.usage import LEFT_OVER, Held, held, size_of
from safemerge.errors import UserError
from safemerge.screening import visible


def size_text(size: float) -> str:
    """1536 -> "1.5 KB"."""
    for unit in ("B", "KB", "MB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GB"


def age_text(seconds: float) -> str:
    """90 -> "1 min". Never negative: the clock may have been set back."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _age(path: Path) -> str:
    manifest = path / MANIFEST
    return age_text(time.time() - (manifest if manifest.exists() else path).stat().st_mtime)


def _line(its: Held) -> str:
    runs = ", ".join(its.runs[:2]) + (f" and {len(its.runs) - 2} more" if len(its.runs) > 2 else "")
    name = str(its.manifest.get("name", "no manifest"))
    return f"{its.name:<32} {size_text(its.size):>9} {_age(its.path):>7}  {name:<36} {runs or '-'}"


def left_over(store: Path) -> list[Path]:
    """Folders of interrupted work and of what was set aside."""
    return [path for path in sorted(store.glob("*/*")) if path.suffix in LEFT_OVER and path.is_dir()]


def show(store: Path, runs: Path) -> None:
    """A line per artifact, and the sums."""
    found, rest = held(store, [runs]), left_over(store)
    for its in found:
        print(visible(_line(its)))
    for path in rest:
        print(visible(f"{path.parent.name}/{path.name:<24} {size_text(size_of(path)):>9} {_age(path):>7}"))
    unused = [its for its in found if not its.runs]
    total = sum(its.size for its in found) + sum(map(size_of, rest))
    free = sum(its.size for its in unused) + sum(map(size_of, rest))
    print(
        f"{len(found)} artifacts and {len(rest)} left-overs, {size_text(total)}; no run uses {len(unused)} of them, "
        f"prune would free {size_text(free)}"
    )


def prune(store: Path, runs: Path, *, really: bool) -> None:
    """Remove the artifacts that no run uses, and left-overs; without `really` show what it would remove.

    Raises:
        UserError: a run is at work in the store.
    """
    found = held(store, [runs])
    doomed = [(its.path, its.size) for its in found if not its.runs]
    # Interrupted work of an artifact that a run has noted is that run's: it goes on from there.
    noted = {its.path for its in found if its.runs} | archive.wanted(store, [runs])
    rest = [
        path for path in left_over(store) if path.suffix != ".partial" or path.with_suffix("") not in noted
    ]
    doomed += [(path, size_of(path)) for path in rest]
    with contextlib.ExitStack() as stack:
        if really:
            _hold(store, stack)
        for path, size in doomed:
            print(
                f"{'removed' if really else 'would remove'} {path.parent.name}/{path.name}  {size_text(size)}"
            )
            if really:
                aside = path.with_suffix(".removed")  # in one step: half of it would pass for a damaged one
                if aside != path:
                    os.replace(path, aside)
                shutil.rmtree(aside)
        freed = size_text(sum(size for _, size in doomed))
        more = "" if really or not doomed else "; to do it: make store ARGS='prune --yes'"
        print(f"{len(doomed)} of {len(found)} artifacts and left-overs, {freed}{more}")


def _hold(store: Path, stack: contextlib.ExitStack) -> None:
    """All locks that there are; runs that come now wait."""
    for path in sorted(store.glob("*/*.lock")):
        try:
            stack.enter_context(FileLock(path, timeout=0))
        except Timeout as error:
            raise UserError(
                f"a run is making {path.parent.name}/{path.stem} in {store}: wait until it has ended, then prune again"
            ) from error


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    its = argparse.ArgumentParser(
        prog="python -m pipeline.housekeeping", description=(__doc__ or "").splitlines()[0]
    )
    its.add_argument("--store", type=Path, default=Path("outputs/store"))
    its.add_argument("--runs", type=Path, default=Path("outputs/runs"))
    commands = its.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="every artifact with size, age and the runs that use it")
    pruning = commands.add_parser("prune", help="what no run uses; shows it, and removes it with --yes")
    pruning.add_argument("--yes", action="store_true")
    out = commands.add_parser("export", help="a run as one archive: report, manifests, adapters, rows")
    out.add_argument("run", help="the run's name, a folder in --runs")
    out.add_argument("file", type=Path)
    back = commands.add_parser("import", help="a run from an archive, into --store and --runs")
    back.add_argument("file", type=Path)
    return its


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit 0, or 2 with one line on a user error."""
    options = parser().parse_args(arguments)
    store, runs = options.store.absolute(), options.runs.absolute()
    try:
        if options.command in ("list", "prune") and not store.is_dir():
            raise UserError(f"there is no store {store}: give its folder, --store DIR")
        match options.command:
            case "list":
                show(store, runs)
            case "prune":
                prune(store, runs, really=options.yes)
            case "export":
                archive.export(store, runs / options.run, options.file)
                print(f"wrote {options.file}, {size_text(options.file.stat().st_size)}")
            case "import":
                print(f"imported {archive.bring(store, runs, options.file)}")
    except UserError as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
