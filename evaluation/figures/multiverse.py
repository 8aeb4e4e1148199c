"""Specification curves: a claim's difference under every reading of the rows, sorted, above the choices behind each."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.figures.canvas import figure
from evaluation.specifications import Curve, Found

if TYPE_CHECKING:
    from matplotlib.lines import Line2D

LOOKS: dict[Found, tuple[str, str]] = {
    "as claimed": ("#0072B2", "o"),
    "not significant": ("#8A8A8A", "s"),
    "against": ("#D55E00", "X"),
}
RING = "as reported"
COLUMNS = 3
SHOWN = 3  # panels of a report, which is made in seconds; the command has them all
# Inches: what a panel needs to its left and above, the plot, a row of choices.
LABELS, TITLE, WIDE, HIGH, ROW = 1.6, 0.5, 2.6, 1.5, 0.17


def specification_curves(curves: Sequence[Curve], title: str, stem: Path) -> list[Path]:
    """A panel per claim; the difference as claimed is above the line. Nothing where no claim has two readings.

    Placed by hand: constrained layout would measure every text twice, for a third of the time.
    """
    paths: list[Path] = []
    if not curves:
        return paths
    cols = min(COLUMNS, len(curves))
    bands = [curves[i : i + cols] for i in range(0, len(curves), cols)]
    heights = [TITLE + HIGH + 0.06 + ROW * most(band) + 0.1 for band in bands]
    width, height = cols * (LABELS + WIDE + 0.1), sum(heights) + 0.7
    with figure(width, height, paths, stem, 2 * len(bands), cols) as (fig, axes):
        fig.set_layout_engine("none")
        top = height - 0.35
        for row, band in enumerate(bands):
            for column in range(cols):
                upper, lower = axes[2 * row][column], axes[2 * row + 1][column]
                if column >= len(band):
                    upper.remove()
                    lower.remove()
                    continue
                left, under = column * (LABELS + WIDE + 0.1) + LABELS, ROW * most(band)
                for ax, bottom, high in (
                    (upper, top - TITLE - HIGH, HIGH),
                    (lower, top - TITLE - HIGH - 0.06 - under, under),
                ):
                    ax.set_position((left / width, bottom / height, WIDE / width, high / height))
                _panel(band[column], upper, lower, most(band))
            top -= heights[row]
        fig.legend(handles=_handles(), loc="lower center", ncols=min(4, 2 * cols), fontsize=9)
        fig.suptitle(title, x=0.01, y=1 - 0.08 / height, ha="left", va="top", fontsize=11)
    return paths


def _handles() -> list[Line2D]:
    """What the marks mean, for the legend."""
    from matplotlib.lines import Line2D

    found = [
        Line2D([], [], color=colour, marker=marker, linestyle="", label=f"95 % interval: {its}")
        for its, (colour, marker) in LOOKS.items()
    ]
    ring = Line2D([], [], color="none", marker="o", markersize=11, markeredgecolor="#000000", label=RING)
    return [*found, ring]


def flipped_curves(curves: Sequence[Curve], title: str, stem: Path) -> list[Path]:
    """The curves that some specification flips, those with the most flips first, and no more than `SHOWN`."""

    def flips(curve: Curve) -> float:
        return (curve.flipped_signs + curve.flipped_significance) / len(curve.cells)

    flipped = sorted((curve for curve in curves if flips(curve)), key=flips, reverse=True)
    return specification_curves(flipped[:SHOWN], title, stem)


def most(band: Sequence[Curve]) -> int:
    """Choices below the panel of the band that has the most of them."""
    return max(sum(map(len, curve.dimensions.values())) for curve in band)


def _panel(curve: Curve, upper, lower, rows: int) -> None:  # type: ignore[no-untyped-def]  # matplotlib's axes
    scale = 100.0 if curve.unit == "points" else 1.0
    cells = sorted(curve.cells, key=lambda cell: curve.sign * cell.found.difference)
    colours = [LOOKS[curve.significance(cell)][0] for cell in cells]
    values, lows, highs = (
        [scale * curve.sign * getattr(cell.found, name) for cell in cells]
        for name in ("difference", "low", "high")
    )
    upper.vlines(range(len(cells)), lows, highs, colors=colours, linewidth=1.3)
    for colour, marker in LOOKS.values():
        its = [x for x in range(len(cells)) if colours[x] == colour]
        upper.plot(its, [values[x] for x in its], marker, color=colour, markersize=5, linestyle="")
    first = cells.index(curve.headline)
    upper.plot(first, values[first], "o", color="none", markersize=11, markeredgecolor="#000000")
    upper.axhline(scale * curve.line, color="#000000", linewidth=0.8)
    upper.set_xlim(-0.7, len(cells) - 0.3)
    upper.set_xticks([])
    upper.set_ylabel(f"{curve.unit}, as claimed", fontsize=8.5)
    upper.tick_params(labelsize=8.5)
    upper.set_title("\n".join(textwrap.wrap(curve.says, 50)), loc="left", x=-0.3, fontsize=8.5)
    labels = [(name, choice) for name, choices in curve.dimensions.items() for choice in choices]
    groups = {name: i for i, name in enumerate(curve.dimensions)}
    for y, (name, _) in enumerate(labels):
        if groups[name] % 2 == 0:
            lower.axhspan(y - 0.5, y + 0.5, color="#F2F2F2", linewidth=0)
    dots = [
        (x, y)
        for y, (name, choice) in enumerate(labels)
        for x, cell in enumerate(cells)
        if cell.choices[name] == choice
    ]
    lower.scatter(*zip(*dots, strict=True), s=12, c=[colours[x] for x, _ in dots])
    lower.set_xlim(-0.7, len(cells) - 0.3)
    lower.set_ylim(rows - 0.5, -0.5)
    lower.set_xticks([])
    lower.set_yticks(
        range(len(labels)), [textwrap.shorten(choice, 30, placeholder="…") for _, choice in labels]
    )
    lower.tick_params(labelsize=7.5, length=0)
    lower.grid(visible=False)
    for spine in lower.spines.values():
        spine.set_visible(False)
