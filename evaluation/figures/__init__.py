"""The report's figures. Each function writes its figure beside the given stem and returns the paths, [] without data."""

from evaluation.figures.grid import heatmap, pareto, tau_curve
from evaluation.figures.multiverse import flipped_curves
from evaluation.figures.null import null_scatter
from evaluation.figures.rates import category_bars, seed_spread, training

__all__ = [
    "category_bars",
    "flipped_curves",
    "heatmap",
    "null_scatter",
    "pareto",
    "seed_spread",
    "tau_curve",
    "training",
]
