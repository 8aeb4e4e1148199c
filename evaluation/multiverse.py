"""The verdict multiverse of some finished runs: a table and a figure.

python -m evaluation.multiverse --run RUN_JSON [RUN_JSON ...] --output DIR

Our claims (evaluation/claims.yaml) under each judge or parser, with and without broken replies, on each benchmark, with
each arithmetic and precision that the stored rows hold. Runs of one model, task and data are put together.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation.analysis import DATA
from evaluation.choosing import choose_points
from evaluation.contrast import Seeds
from evaluation.figures.multiverse import specification_curves
from evaluation.multiverse_table import multiverse_table
from evaluation.results import Entry, keep_of, load
from evaluation.specifications import Curve, curves
from evaluation.tables import markdown
from safemerge.commands import Parser, one_line_errors
from safemerge.errors import UserError


def universes(runs: Sequence[Path]) -> dict[str, list[tuple[str, Seeds]]]:
    """The seeds of each precision, by model, task and data; with the hash of their settings where that is not all."""
    loaded = [load(path) for path in runs]
    keep = keep_of([run for run, _ in loaded])
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for entry in (entry for _, entries in loaded for entry in entries):
        groups.setdefault(entry.key, []).append(entry)
    found: dict[str, list[tuple[str, Seeds]]] = {}
    for (model, task, data, precision, settings), entries in groups.items():
        seeds = [(entry, choose_points(entry, "dev", keep)[0]) for entry in entries]
        alike = sum(key[:4] == (model, task, data, precision) for key in groups) > 1
        name = f"{precision}, settings {settings[:6]}" if alike else precision
        found.setdefault(", ".join((model, task, DATA.get(data, data))), []).append((name, seeds))
    return found


def write_page(runs: Sequence[Path], output: Path) -> dict[str, list[Curve]]:
    """multiverse.md and its figures in the folder.

    Raises:
        UserError: no claim can be read in more than one way.
    """
    found = {name: curves(its) for name, its in universes(runs).items()}
    if not any(found.values()):
        raise UserError(
            f"no claim of {', '.join(map(str, runs))} can be read in two ways: give runs with SafeMERGE and the rows that "
            "it is compared with, judged by two judges or merged by two arithmetics"
        )
    output.mkdir(parents=True, exist_ok=True)
    parts = ["# The verdict multiverse"]
    for i, (name, its) in enumerate(found.items()):
        if its:
            stem = output / ("multiverse" if len(found) == 1 else f"multiverse-{i}")
            drawn = specification_curves(its, name, stem)
            table = multiverse_table(its)
            parts += [
                f"## {name}",
                markdown(table),
                table.note,
                f"![Specification curves]({drawn[0].stem}.png)",
            ]
    (output / "multiverse.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return found


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Exit 0, or 2 with one line on a user error."""
    parser = Parser(prog="python -m evaluation.multiverse", description=__doc__)
    parser.add_argument("--run", nargs="+", type=Path, required=True, help="run.json, or several")
    parser.add_argument("--output", type=Path, required=True, help="folder of the page and its figures")
    options = parser.parse_args(arguments)
    found = write_page(options.run, options.output)
    for name, its in found.items():
        print(name)
        for curve in its:
            print(
                f"  {curve.id}: {len(curve.cells)} specifications, sign flips in {curve.flipped_signs}, "
                f"significance in {curve.flipped_significance}"
            )
    print(f"page: {options.output / 'multiverse.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
