"""The selected points: harm per category, the spread over seeds, and the trainings behind them."""

from __future__ import annotations

import math
from pathlib import Path

from evaluation.analysis import Group
from evaluation.figures.canvas import figure, legend_below
from evaluation.headline import HeadlineRow
from evaluation.results import Entry
from evaluation.sections import FEWEST, large_categories
from evaluation.soundness import LogRow, training_curves


def category_bars(group: Group, stem: Path) -> list[Path]:
    """Harm per category for the selected points, first harm benchmark, with intervals; not for the smallest categories."""
    benchmark = group.first_harm
    kinds = [category for b, category in large_categories(group) if b == benchmark]
    shown = group.displays()
    rates = {
        (row.name, row.category): row.rate
        for row in group.categories
        if row.benchmark == benchmark and row.category in kinds and row.rate.n >= FEWEST
    }
    names = [n for n in dict.fromkeys(name for name, _ in rates) if not shown[n].control]
    paths: list[Path] = []
    if not names:
        return paths
    width = 0.84 / len(names)
    with figure(max(7.2, 0.24 * len(names) * len(kinds) + 1.5), 3.9, paths, stem) as (fig, axes):
        ax = axes[0][0]
        ax.grid(False, axis="x")
        for i, name in enumerate(names):
            known = [(x, rates[name, k]) for x, k in enumerate(kinds) if (name, k) in rates]
            at = [x + (i - (len(names) - 1) / 2) * width for x, _ in known]
            error = [
                [max(0.0, 100 * (r.value - r.low)) for _, r in known],
                [max(0.0, 100 * (r.high - r.value)) for _, r in known],
            ]
            ax.bar(
                at, [100 * r.value for _, r in known], width * 0.94, yerr=error, color=shown[name].colour,
                hatch=shown[name].hatch, edgecolor="white", linewidth=0.4, label=name,
                error_kw={"elinewidth": 0.8, "ecolor": "#333333"},
            )  # fmt: skip
            none = [x for x, (_, r) in zip(at, known, strict=True) if not r.value]
            if none:  # a bar of no height says whose it is by its marker
                ax.plot(none, [0] * len(none), shown[name].marker, color=shown[name].colour, markersize=5)
        ax.set_xticks(range(len(kinds)), kinds)
        ax.set_ylabel(f"Harm: {group.name_of(benchmark)} (%)")
        ax.set_ylim(bottom=-3)
        ax.set_title(
            f"Harm by category ({group.model}, {group.task}, {group.prompts})", loc="left", fontsize=10
        )
        legend_below(fig, min(4, len(names)), fontsize=8.5)
    return paths


def seed_spread(group: Group, stem: Path) -> list[Path]:
    """Each seed's rate per method, with the mean; only for two seeds or more."""
    panels = [
        (group.utility, "Utility"),
        (group.first_harm, "Harm"),
        (next(iter(group.over_refusal), None), "Over-refusal"),
    ]
    rows = [row for row in group.headline if any(_known(row, b) for b, _ in panels)]
    panels = [(b, label) for b, label in panels if any(_known(row, b) for row in rows)]
    paths: list[Path] = []
    if len(group.seeds) < 2 or not panels:
        return paths
    with figure(3.0 + 2.0 * len(panels), 1.2 + 0.32 * len(rows), paths, stem, cols=len(panels)) as (
        fig,
        axes,
    ):
        for ax, (benchmark, label) in zip(axes[0], panels, strict=True):
            for y, row in enumerate(rows):
                values = _known(row, benchmark)
                if values:
                    colour, marker = row.display.colour, row.display.marker
                    ax.plot([min(values), max(values)], [y, y], color=colour, linewidth=1.5, alpha=0.5)
                    ax.plot(
                        values,
                        [y] * len(values),
                        marker,
                        color=colour,
                        markersize=7,
                        markeredgecolor="white",
                        markeredgewidth=0.4,
                        linestyle="none",
                    )
                    ax.plot(
                        sum(values) / len(values), y, "|", color="#000000", markersize=13, markeredgewidth=1.5
                    )
            ax.set_yticks(range(len(rows)), [row.name for row in rows] if ax is axes[0][0] else [])
            ax.set_ylim(len(rows) - 0.5, -0.5)
            ax.set_title(f"{label} (%)\n{group.name_of(benchmark)}", fontsize=9)
        fig.suptitle(
            f"{len(group.seeds)} seeds: a marker each, the bar is their mean ({group.model}, {group.prompts})",
            fontsize=10,
            x=0.01,
            ha="left",
        )
    return paths


def _known(row: HeadlineRow, benchmark: str | None) -> list[float]:
    """A row's rates of a benchmark in percent, of the seeds that have one."""
    rate = row.rates.get(benchmark or "")
    return [100 * v for v in (rate.values if rate else []) if not math.isnan(v)]


def training(entries: list[Entry], stem: Path) -> list[Path]:
    """Training loss of every fine-tuning, a line per seed."""
    curves: dict[str, list[tuple[int, list[LogRow]]]] = {}
    for entry in entries:
        for name, rows in training_curves(entry).items():
            if len(rows) > 1:  # a line needs two
                curves.setdefault(name, []).append((entry.spec.seed, rows))
    paths: list[Path] = []
    if not curves:
        return paths
    with figure(max(4.0, 2.4 * len(curves)), 2.6, paths, stem, cols=len(curves)) as (_, axes):
        for ax, (name, lines) in zip(axes[0], curves.items(), strict=True):
            for i, (seed, rows) in enumerate(lines):
                x, y = [row.step for row in rows], [row.loss for row in rows]
                ax.plot(
                    x,
                    y,
                    color=("#0072B2", "#D55E00", "#009E73", "#CC79A7")[i % 4],
                    linewidth=1.4,
                    linestyle=("-", "--", ":", "-.")[i % 4],
                    label=f"seed {seed}",
                )
            ax.set_title(name, fontsize=9.5)
            ax.set_xlabel("step")
            ax.set_ylim(bottom=0)
        axes[0][0].set_ylabel("training loss (answer tokens)")
        if len({seed for lines in curves.values() for seed, _ in lines}) > 1:
            axes[0][-1].legend(fontsize=8)
    return paths
