"""Build the report folder from run.json files.

Results, tables, figures, report.md and report.html. Reads artifacts only.

python -m evaluation.report RUN_JSON... --output DIR
"""

from __future__ import annotations

import csv
import gc
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from evaluation import figures, page, selection
from evaluation.analysis import Group, analyse, as_json
from evaluation.at_once import at_once
from evaluation.choosing import Chosen, choose_points, first_of
from evaluation.literature import literature_table
from evaluation.long_form import ResultRow, long_rows, plain, write_results
from evaluation.results import Entry, keep_of, load
from evaluation.tables import Table, headline_table, latex
from safemerge.commands import Parser, one_line_errors
from safemerge.errors import UserError


@dataclass
class ReportSummary:
    """What the terminal and the tracker need: the headline tables, warnings, and where everything is."""

    folder: Path
    tables: list[Table]
    groups: list[Group]
    failures: list[str]
    notes: list[str]
    rows: list[ResultRow]
    figures: list[Path] = field(default_factory=list)


def build_report(
    run_json: Path | Sequence[Path],
    output: Path,
    *,
    keep: float | None = None,
    slack: float = selection.SLACK,
    browsed: int = page.BROWSED,
) -> ReportSummary:
    """Write the report folder in one step (it is complete or as it was before) and return its summary."""
    loaded = [load(Path(path)) for path in ([run_json] if isinstance(run_json, str | Path) else run_json)]
    runs, entries = [run for run, _ in loaded], [entry for _, its in loaded for entry in its]
    _distinct(entries)
    keep = keep_of(runs) if keep is None else keep
    frozen = gc.get_freeze_count()
    gc.freeze()  # statsmodels asks for a full collection at each family of tests, which need not look at what is loaded
    try:
        groups = analyse(entries, keep=keep, slack=slack)
    finally:
        if not frozen:
            gc.unfreeze()
    chosen = [(entry, choose_points(entry, "dev", keep, slack)[0]) for entry in entries]
    rows = [row for entry in entries for row in long_rows(entry)]
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as temporary:
        folder = Path(temporary) / "report"
        folder.mkdir(mode=0o755)
        write_results(rows, folder)
        pictures, drawn = draw(groups, chosen, folder)
        _similarity(entries, folder)
        literature = literature_table(groups)
        files = {
            "report.md": page.render_markdown(runs, groups, literature, pictures),
            "report.html": page.render_html(
                runs, groups, literature, pictures, page.browser_data(chosen, browsed)
            ),
            "main_table.tex": "\n".join(
                latex(headline_table(g), f"tab:main-{i}") for i, g in enumerate(groups)
            ),
            "analysis.json": json.dumps(plain(as_json(groups)), indent=1, ensure_ascii=False, allow_nan=False)
            + "\n",
        }
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        _replace(folder, output)
    return ReportSummary(
        folder=output,
        tables=[headline_table(group) for group in groups],
        groups=groups,
        failures=page.failures(groups),
        notes=page.all_notes(groups),
        rows=rows,
        figures=[output / path.name for path in drawn],
    )


def draw(
    groups: list[Group], chosen: list[tuple[Entry, Chosen]], folder: Path
) -> tuple[dict[int, dict[str, Path]], list[Path]]:
    """Every figure of every group (the first seed's where a figure shows one run).

    PNGs by group and name, and all files.
    """
    from matplotlib import font_manager  # noqa: F401, before the process is copied: it reads a list of fonts

    wanted: dict[tuple[int, str], Callable[[], list[Path]]] = {}
    for index, group in enumerate(groups):
        members = [(entry, points) for entry, points in chosen if entry.key == group.key]
        entry, points = members[0]
        ours = first_of(points, "safemerge")
        stem = (
            ""
            if len(groups) == 1
            else f"{index}-"
            + "-".join(part for part in (*group.key[:4], group.settings) if part).replace("/", "_")
            + "-"
        )
        its = {
            "pareto": partial(figures.pareto, entry, points),
            "tau_curve": partial(figures.tau_curve, entry, points),
            "rho_heatmap": partial(figures.heatmap, entry, ours),
            "rho_null": partial(figures.null_scatter, entry, ours),
            "categories": partial(figures.category_bars, group),
            "seeds": partial(figures.seed_spread, group),
            "training": partial(figures.training, [e for e, _ in members]),
            "multiverse": partial(figures.flipped_curves, group.multiverse, group.title),
        }
        wanted |= {(index, name): partial(drawing, folder / f"{stem}{name}") for name, drawing in its.items()}
    made = dict(zip(wanted, at_once(list(wanted.values())), strict=True))
    pictures: dict[int, dict[str, Path]] = {index: {} for index in range(len(groups))}
    for (index, name), paths in made.items():
        pictures[index].update((name, path) for path in paths if path.suffix == ".png")
    return pictures, [path for paths in made.values() for path in paths]


def _distinct(entries: list[Entry]) -> None:
    seen: set[tuple[Any, ...]] = set()
    for entry in entries:
        key = (*entry.key, entry.spec.seed)
        if key in seen:
            raise UserError(
                f"two runs hold model {key[0]}, task {key[1]}, data {key[2] or 'unknown'}, "
                f"precision {key[3] or 'unknown'}, seed {key[-1]}: "
                "give one of them"
            )
        seen.add(key)


def _similarity(entries: list[Entry], folder: Path) -> None:
    """One similarity.csv: the run's own table, with the run's columns in front where there are several."""
    sources = [(e, e.path(e.spec.similarity)) for e in entries if e.spec.similarity]
    if not sources:
        return
    rows: list[dict[str, str]] = []
    columns: list[str] = []
    for entry, path in sources:
        of_run = {"model": entry.spec.model, "task": entry.spec.task, "seed": str(entry.spec.seed)}
        try:
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                found = [{**(of_run if len(sources) > 1 else {}), **row} for row in reader]
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {path}: {error}; run the similarity stage again") from error
        rows += found
        # Tables of older versions lack columns, which then stay empty.
        columns = max(columns, list(found[0]) if found else [], key=len)
    with (folder / "similarity.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _replace(folder: Path, output: Path) -> None:
    """Move the finished folder to its place; the previous report goes only after the new one is there."""
    old = folder.parent / "old"
    if output.exists():
        os.rename(output, old)
    os.rename(folder, output)
    shutil.rmtree(old, ignore_errors=True)


def _short(cell: str) -> str:
    """A cell for the terminal: the interval on its own line, counts left to the files."""
    value, bracket, rest = cell.partition(" [")
    return f"{value}\n[{rest.partition(']')[0]}]" if bracket else value


#: What a table's note says of counts, which the terminal has no room for.
COUNTS = re.compile(r" \((?:k/n|each seed; n prompts in each)\)")


def print_headline(summary: ReportSummary, console: Any) -> None:
    """The headline tables, notes, failures and the path, on a rich console."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    for table in summary.tables:
        # tau and alpha go under the method's name, so that the table fits 80 columns
        shown = RichTable(title=Text(table.title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in (table.columns[0], *table.columns[3:-1], "Modules: merged"):
            shown.add_column(Text(column.replace(": ", "\n")), overflow="fold")
        for i, (method, tau, alpha, *cells) in enumerate(table.rows):
            knobs = [f"{name} {value}" for name, value in (("τ", tau), ("α", alpha)) if value != "–"]
            style = "red" if i in table.failed else "bold" if i in table.marked else ""
            first = "\n".join([method, *knobs])
            shown.add_row(Text(first), *(Text(_short(cell)) for cell in cells), style=style)
        console.print(shown)
        console.print(Text(COUNTS.sub("", table.note), style="dim"))
    for line in summary.notes:
        console.print(Text(line.replace("*", "")))
    for line in summary.failures:
        console.print(Text(line, style="bold red"))
    console.print(Text(f"report: {summary.folder / 'report.html'}"))


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Exit 0, or 2 with one line on a user error."""
    parser = Parser(prog="python -m evaluation.report", description="Rebuild a report from artifacts.")
    parser.add_argument(
        "run_json", nargs="+", type=Path, help="run.json of one run, or of several to be shown together"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the report; it is replaced")
    parser.add_argument(
        "--keep",
        type=float,
        help="share of the gained utility to keep (default: as the runs were configured)",
    )
    options = parser.parse_args(arguments)
    summary = build_report(options.run_json, options.output, keep=options.keep)
    from rich.console import Console

    print_headline(summary, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
