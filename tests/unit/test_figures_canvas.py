"""What every figure shares: its legend lies within it."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.figures.canvas import figure, legend_below

LONG = "RESTA-style (safety LoRA as vector)"


@pytest.mark.parametrize(("label", "columns"), [(LONG, 2), ("short", 4), (LONG * 4, 1)])
def test_a_legend_has_as_many_columns_as_fit(tmp_path: Path, label: str, columns: int) -> None:
    paths: list[Path] = []
    with figure(7.2, 3.9, paths, tmp_path / "x") as (fig, axes):
        for number in range(8):
            axes[0][0].plot([0, 1], [0, number], label=f"{label} {number}")
        legend_below(fig, 4, fontsize=8.5)
    [legend] = fig.legends
    assert legend._ncols == columns
    if columns > 1:
        box, whole = legend.get_window_extent(), fig.bbox
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1
