"""rho of every module against its null."""

from __future__ import annotations

from pathlib import Path

from evaluation.criterion import module_rows
from evaluation.figures.canvas import figure
from evaluation.results import Entry, Point

#: Okabe and Ito's colours, which most readers can tell apart, with a marker each.
LOOKS = (
    *(("#0072B2", "o"), ("#E69F00", "s"), ("#009E73", "D"), ("#CC79A7", "^")),
    *(("#56B4E9", "v"), ("#D55E00", "P"), ("#000000", "X")),
)


def null_scatter(entry: Entry, point: Point | None, stem: Path) -> list[Path]:
    """rho over its null, both logarithmic, by kind; full markers are modules that the selected point merged."""
    paths: list[Path] = []
    rows = module_rows(entry)
    if not rows:
        return paths
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter

    selected = set(point.spec.selected) if point else set()
    with figure(6.6, 4.6, paths, stem) as (fig, axes):
        ax = axes[0][0]
        names = dict.fromkeys(row.kind for row in rows)
        looks = {kind: LOOKS[i % len(LOOKS)] for i, kind in enumerate(names)}
        for kind, (colour, marker) in looks.items():
            its = [row for row in rows if row.kind == kind]
            ax.scatter(
                [row.null for row in its],
                [row.rho for row in its],
                s=26,
                marker=marker,
                edgecolors=colour,
                facecolors=[colour if row.module in selected else "none" for row in its],
                linewidths=0.9,
                label=kind,
            )
        ends = [min(row.null for row in rows), max(row.null for row in rows)]
        for units, dash in ((1, "-"), (2, (0, (5, 2)))):
            name = "ρ = null" if units == 1 else f"ρ = {units} × null"
            ax.plot(
                ends,
                [units * end for end in ends],
                color="#444444",
                linewidth=1.0,
                linestyle=dash,
                label=name,
            )
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("null: mean ρ of an update that knows nothing of V")
        ax.set_ylabel("ρ")
        ax.set_title(f"ρ against its null ({entry.title})", loc="left", fontsize=10)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(FuncFormatter(_minor))
        handles, labels = ax.get_legend_handles_labels()
        kinds = [
            Line2D([], [], color=colour, marker=marker, markersize=5, markerfacecolor="none", linestyle="")
            for colour, marker in looks.values()
        ]
        handles = [*kinds, *handles[len(kinds) :]]
        title = f"full: merged ({len(selected)})" if selected else None
        fig.legend(handles, labels, loc="outside right upper", fontsize=8.5, title=title, title_fontsize=8.5)
    return paths


def _minor(value: float, _: int) -> str:
    """Of the ticks within a decade, 2 and 5 have a number."""
    return f"{value:g}" if f"{value:e}"[0] in "25" else ""
