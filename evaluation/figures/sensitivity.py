"""Harm over utility as the settings of the fine-tuning change."""

from __future__ import annotations

import math
from pathlib import Path

from evaluation.attack import Cell, Sweep
from evaluation.figures.canvas import figure, legend_below


def draw(sweep: Sweep, stem: Path) -> list[Path]:
    """Left: harm of the two ends by setting, in order of the utility that fine-tuning reaches. Right: harm over utility,
    a line per row through all settings; where a repair's line lies below the fine-tuned one, it beats a milder fine-tuning.
    """
    paths: list[Path] = []
    with figure(12.0, 4.6 + 0.1 * len(sweep.settings), paths, stem, cols=2) as (fig, axes):
        left, right = axes[0]
        for method, label in (("aligned", "Aligned"), ("finetuned", "Fine-tuned")):
            its = [
                (y, cell) for y, s in enumerate(sweep.settings) if (cell := s.cell(method)) and _known(cell)
            ]
            if not its:
                continue
            colour, marker = its[0][1].display.colour, its[0][1].display.marker
            at, values = [y for y, _ in its], [100 * cell.harm.value for _, cell in its]
            error = [
                [100 * max(0.0, cell.harm.value - cell.harm.low) for _, cell in its],
                [100 * max(0.0, cell.harm.high - cell.harm.value) for _, cell in its],
            ]
            left.errorbar(values, at, xerr=error, fmt=marker, color=colour, label=label, capsize=3)
        left.set_yticks(
            range(len(sweep.settings)),
            [f"{i}: {s.name}{' *' if s.damaged else ''}" for i, s in enumerate(sweep.settings, 1)],
            fontsize=8.5,
        )
        left.set_ylim(len(sweep.settings) - 0.5, -0.5)
        left.set_xlim(left=min(0.0, left.get_xlim()[0]))
        left.set_xlabel(f"Harm: {sweep.harm} (%)")
        left.set_title("Where is there damage? (*: beyond its interval)", loc="left", fontsize=10)
        left.legend(fontsize=8.5)
        names = dict.fromkeys(
            cell.name for s in sweep.settings for cell in s.cells if not cell.display.control
        )
        for name in names:
            found = [
                (i, cell)
                for i, s in enumerate(sweep.settings, 1)
                for cell in s.cells
                if cell.name == name and _known(cell)
            ]
            if not found:
                continue
            shown = found[0][1].display
            places = [(100 * cell.utility.value, 100 * cell.harm.value) for _, cell in found]
            style = {"marker": shown.marker, "color": shown.colour, "linestyle": "none", "alpha": 0.85}
            right.plot(*zip(*places, strict=True), markersize=6, label=name, **style)
            for (i, _), place in zip(found, places, strict=True):
                right.annotate(
                    str(i), place, (5, 3), textcoords="offset points", color=shown.colour, fontsize=8
                )
        right.set_xlabel(f"Utility: {sweep.utility} (%)")
        right.set_ylabel(f"Harm: {sweep.harm} (%)")
        right.set_ylim(bottom=min(0.0, right.get_ylim()[0]))
        right.set_title("Harm over utility, a point per setting (numbers: left)", loc="left", fontsize=10)
        legend_below(fig, 4, *right.get_legend_handles_labels(), fontsize=8.5)
        fig.suptitle(sweep.title, x=0.01, ha="left", fontsize=10)
    return paths


def _known(cell: Cell) -> bool:
    return not math.isnan(cell.harm.value + cell.utility.value)
