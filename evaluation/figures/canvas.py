"""How every figure is drawn and saved: as PNG and SVG. A method's colour and marker come from its configuration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

RC: Any = {  # matplotlib types the keys as one long literal
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.dpi": 160,
    "svg.hashsalt": "safemerge",
    "svg.fonttype": "path",
}
NO_DATE = {".svg": {"Date": None}, ".png": {"Software": None}}


@contextmanager
def figure(
    width: float, height: float, paths: list[Path], stem: Path, rows: int = 1, cols: int = 1
) -> Iterator[Any]:
    """A figure that is saved as PNG and SVG on the way out.

    Never touches the global backend or pyplot's state.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(RC):
        fig = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(fig)
        yield fig, fig.subplots(rows, cols, squeeze=False)
        for suffix, metadata in NO_DATE.items():
            path = stem.with_suffix(suffix)
            fig.savefig(path, metadata=metadata)
            paths.append(path)
            fig.set_layout_engine("none")  # laid out once; the second file has the same places


def legend_below(fig: Any, most: int, *labelled: Any, **options: Any) -> None:
    """A legend below the axes, in as many columns as fit the figure's width, `most` at most."""
    renderer = fig.canvas.get_renderer()
    for columns in range(most, 0, -1):
        legend = fig.legend(*labelled, loc="outside lower center", ncols=columns, **options)
        if columns == 1 or legend.get_window_extent(renderer).width <= fig.bbox.width:
            return
        legend.remove()
