"""Specification curves: a claim's difference under every reading of the rows, sorted, above the choices behind each."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from evaluation.figures.canvas import figure
from evaluation.specifications import Curve, Found

LOOKS: dict[Found, tuple[str, str]] = {
    "as claimed": ("#0072B2", "o"),
    "not significant": ("#8A8A8A", "s"),
    "against": ("#D55E00", "X"),
}
COLUMNS = 3
SHOWN = 6  # panels of a report: all of them take a second and a half
ROW = 0.17  # inches of a choice


def specification_curves(curves: Sequence[Curve], title: str, stem: Path) -> list[Path]:
    """A panel per claim; the difference in the claimed direction is above zero. Nothing where no claim has two readings."""
    paths: list[Path] = []
    if not curves:
        return paths
    cols = min(COLUMNS, len(curves))
    bands = [curves[i : i + cols] for i in range(0, len(curves), cols)]
    heights: list[float] = []
    for band in bands:
        heights += [1.5, ROW * most(band) + 0.1]
    height = sum(heights) + 0.75 * len(bands) + 0.7
    with figure(0.5 + 4.3 * cols, height, paths, stem, 2 * len(bands), cols, heights) as (fig, axes):
        from matplotlib.lines import Line2D

        for i in range(len(bands) * cols):
            upper, lower = axes[2 * (i // cols)][i % cols], axes[2 * (i // cols) + 1][i % cols]
            if i < len(curves):
                _panel(curves[i], upper, lower, most(bands[i // cols]))
            else:
                upper.axis("off")
                lower.axis("off")
        handles = [
            Line2D([], [], color=colour, marker=marker, linestyle="", label=f"95 % interval: {found}")
            for found, (colour, marker) in LOOKS.items()
        ]
        handles.append(
            Line2D(
                [],
                [],
                color="none",
                marker="o",
                markersize=11,
                markeredgecolor="#000000",
                label="as reported",
            )
        )
        fig.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=9)
        fig.suptitle(title, x=0.01, ha="left", fontsize=11)
    return paths


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
    upper.set_title("\n".join(textwrap.wrap(curve.says, 50)), loc="left", fontsize=8.5)
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
