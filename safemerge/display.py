"""What `safemerge` shows on a terminal: tables, a histogram, a progress bar. Imports rich only when used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from safemerge.screening import visible
from safemerge.selection import Selection, of_null, resolve_tau, select, show
from safemerge.table import ModuleRow, live_rhos


def show_rows(rows: Sequence[ModuleRow]) -> None:
    from rich.markup import escape  # module names are what an adapter's file says

    columns = ("module", "rho", "null", "rho/null", "|dW|", "|V|", "flags")
    table = _table("rho by module; null: of an update that knows nothing of V", columns, numbers=range(1, 6))
    for row in rows:
        of_null = (f"{row.null:.4f}", "–" if row.degenerate else f"{row.ratio:.2f}")
        numbers = (f"{row.rho:.4f}", *of_null, f"{row.norm_task:.4g}", f"{row.norm_v:.4g}")
        table.add_row(escape(visible(row.module)), *numbers, " ".join(row.flags))
    _print(table)


def show_histogram(rows: Sequence[ModuleRow], bins: int = 10) -> None:
    rhos = live_rhos(rows)
    if not rhos:
        print("no module has a defined rho")
        return
    low, high = min(rhos), max(rhos)
    width = (high - low) / bins or 1.0
    counts = [0] * bins
    for rho in rhos:
        counts[min(bins - 1, int((rho - low) / width))] += 1
    table = _table("histogram of rho", ("rho", "modules", ""), numbers=(1,))
    for index, count in enumerate(counts):
        edges = f"{low + index * width:.3f} - {low + (index + 1) * width:.3f}"
        table.add_row(edges, str(count), "█" * round(40 * count / max(counts)))
    _print(table)


def show_counts(rows: Sequence[ModuleRow], taus: Sequence[float | str]) -> None:
    table = _table("modules with rho < tau", ("tau", "as a number", "modules", "share"), numbers=(1, 2, 3))
    for tau in taus:
        count = len(select(rows, Selection("below", tau=tau)))
        unit = " x null" if of_null(tau) else ""
        value = f"{resolve_tau(tau, rows):.4f}{unit}"
        table.add_row(show(tau), value, f"{count} of {len(rows)}", f"{count / len(rows):.0%}")
    _print(table)


def _table(title: str, columns: Sequence[str], numbers: Sequence[int]) -> Any:
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(title=title, box=SIMPLE, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index in numbers else "left", no_wrap=True)
    return table


def _print(table: Any) -> None:
    from rich.console import Console

    console = Console()
    # Without a terminal rich assumes 80 columns and would cut module names.
    console.print(table) if console.is_terminal else Console(width=140).print(table)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar on stderr, gone when done; nothing where stderr is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.fields[title]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None, title=title)
        yield lambda done, total, name: bar.update(task, completed=done, total=total, description=name)
