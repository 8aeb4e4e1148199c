"""The store's artifacts, with size, age and the runs that use them; what no run uses can be removed, a run taken elsewhere.

python -m pipeline.housekeeping list
python -m pipeline.housekeeping prune [--yes] [--older] [--forget DIR]
python -m pipeline.housekeeping export RUN FILE.tar.gz
python -m pipeline.housekeeping import FILE.tar.gz
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import archive, locks
from pipeline.integrity import FILES
from pipeline.store import MANIFEST
from pipeline.usage import LEFT_OVER, Held, forgotten, held, known_folders, size_of
from safemerge.commands import Parser, one_line_errors
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


def show(store: Path, runs: Sequence[Path]) -> None:
    """A line per artifact, and the sums."""
    found, rest = held(store, runs), left_over(store)
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


@dataclass(frozen=True)
class Doomed:
    """What may go, with sizes (bytes); how many artifacts there are, and how many stay though no run uses them."""

    paths: list[tuple[Path, int]]
    artifacts: int
    older: int


def doomed(store: Path, runs: Sequence[Path], *, older: bool) -> Doomed:
    """Artifacts that no run uses, and left-overs.

    older: also those that were made before runs noted what they use: a run in a folder that is not known here may use them.
    """
    found = held(store, runs)
    unused = [its for its in found if not its.runs]
    kept = [its for its in unused if FILES not in its.manifest and not older]
    # Interrupted work of an artifact that a run has noted is that run's: it goes on from there.
    noted = {its.path for its in found if its.runs} | archive.wanted(store, runs)
    rest = [
        path for path in left_over(store) if path.suffix != ".partial" or path.with_suffix("") not in noted
    ]
    paths = [(its.path, its.size) for its in unused if its not in kept]
    return Doomed([*paths, *((path, size_of(path)) for path in rest)], len(found), len(kept))


def prune(
    store: Path,
    runs: Sequence[Path],
    *,
    really: bool,
    older: bool = False,
    forget: Sequence[Path] = (),
) -> None:
    """Remove what no run uses; without `really` show what it would remove.

    forget: folders of runs that are gone for good.

    Raises:
        UserError: a run is at work in the store, or a folder of runs that have used it cannot be seen.
    """
    gone = {str(path.absolute()) for path in forget}
    unseen = [its for its in known_folders(store) if its not in gone and not Path(its).is_dir()]
    if unseen:
        raise UserError(
            f"runs in {unseen[0]} have used this store, and that folder is not there: mount it, or give --forget "
            f"{shlex.quote(unseen[0])}, with --runs DIR if they have moved to DIR"
        )
    with contextlib.ExitStack() as stack:
        if really:
            _hold(store, stack)
            forgotten(store, gone)
        its = doomed(store, [Path(path) for path in runs], older=older)
        for path, size in its.paths:
            print(
                f"{'removed' if really else 'would remove'} {path.parent.name}/{path.name}  {size_text(size)}"
            )
            if really:
                aside = path.with_suffix(".removed")  # in one step: half of it would pass for a damaged one
                if aside != path:
                    os.replace(path, aside)
                shutil.rmtree(aside)
        freed = size_text(sum(size for _, size in its.paths))
        if its.older:
            print(
                f"{its.older} more were made before runs noted what they use, and stay: --older takes them, too"
            )
        more = "" if really or not its.paths else "; to do it: make store ARGS='prune --yes'"
        print(f"{len(its.paths)} of {its.artifacts} artifacts and left-overs, {freed}{more}")


def _hold(store: Path, stack: contextlib.ExitStack) -> None:
    """All locks that there are, of both kinds; runs that come now wait."""
    for kind, suffix in (("native", "lock"), ("lease", "lease")):
        for path in sorted(store.glob(f"*/*.{suffix}")):
            lock = locks.new(path, kind)
            if not locks.taken(lock):
                soon = f"; after a killed one, {locks.LEASE_S:.0f} s" if kind == "lease" else ""
                raise UserError(
                    f"a run is making {path.parent.name}/{path.stem} in {store}: wait until it has ended{soon}, then "
                    "prune again"
                )
            stack.callback(lock.release)


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    its = Parser(prog="python -m pipeline.housekeeping", description=(__doc__ or "").splitlines()[0])
    its.add_argument("--store", type=Path, default=Path("outputs/store"))
    its.add_argument(
        "--runs", type=Path, action="append", help="a folder of runs; may be given several times"
    )
    commands = its.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="every artifact with size, age and the runs that use it")
    pruning = commands.add_parser("prune", help="what no run uses; shows it, and removes it with --yes")
    pruning.add_argument("--yes", action="store_true")
    pruning.add_argument(
        "--older", action="store_true", help="also what was made before runs noted what they use"
    )
    pruning.add_argument(
        "--forget", type=Path, action="append", default=[], help="a folder of runs that is gone"
    )
    out = commands.add_parser("export", help="a run as one archive: report, manifests, adapters, rows")
    out.add_argument("run", help="the run's name, a folder in --runs")
    out.add_argument("file", type=Path)
    back = commands.add_parser("import", help="a run from an archive, into --store and --runs")
    back.add_argument("file", type=Path)
    return its


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Exit 0, or 2 with one line on a user error."""
    options = parser().parse_args(arguments)
    store = options.store.absolute()
    folders = [path.absolute() for path in options.runs or [Path("outputs/runs")]]
    runs = folders[0]
    if options.command in ("list", "prune") and not store.is_dir():
        raise UserError(f"there is no store {store}: give its folder, --store DIR")
    match options.command:
        case "list":
            show(store, folders)
        case "prune":
            prune(store, folders, really=options.yes, older=options.older, forget=options.forget)
        case "export":
            archive.export(store, runs / options.run, options.file)
            print(f"wrote {options.file}, {size_text(options.file.stat().st_size)}")
        case "import":
            print(f"imported {archive.bring(store, runs, options.file)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
