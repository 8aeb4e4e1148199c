"""The whole grid: utility against harm, rho per module, and what tau changes."""

from __future__ import annotations

import math
from pathlib import Path

from evaluation.choosing import Chosen, first_of, rate_of
from evaluation.figures.canvas import figure, legend_below
from evaluation.results import Entry, Point
from safemerge.selection import of_null
from safemerge.table import read_table


def _axes(entry: Entry) -> tuple[str | None, str | None]:
    return entry.first("utility"), entry.first("harm")


def pareto(entry: Entry, chosen: Chosen, stem: Path) -> list[Path]:
    """Harm against utility on the test half.

    Every point of every grid, the selected ones with their intervals.
    """
    utility, harm = _axes(entry)
    rates = {
        name: (rate_of(entry, p, utility, "test"), rate_of(entry, p, harm, "test"))
        for name, p in chosen.items()
    }
    rates = {name: (u, h) for name, (u, h) in rates.items() if u.n and h.n}
    paths: list[Path] = []
    if not utility or not harm or len(rates) < 2:  # one point alone compares nothing
        return paths
    with figure(7.2, 4.6, paths, stem) as (_, axes):
        ax = axes[0][0]
        grid = [p for p in entry.points if p.method == "safemerge"]
        split = "test" if all(p.answered(harm, "test") for p in grid) else "dev"
        spots = [(rate_of(entry, p, utility, split), rate_of(entry, p, harm, split)) for p in grid]
        spots = [(u, h) for u, h in spots if u.n and h.n]
        if len(spots) > 1:
            ax.scatter(
                *zip(*((100 * u.value, 100 * h.value) for u, h in spots), strict=True),
                s=26, facecolors="none", edgecolors=grid[0].spec.display.colour, linewidths=0.9,
                label=f"SafeMERGE grid ({len(spots)} points{', development half' if split == 'dev' else ''})",
                zorder=2,
            )  # fmt: skip
        for name, (u, h) in rates.items():
            display = chosen[name].spec.display
            ours = chosen[name].method == "safemerge"
            ax.errorbar(
                100 * u.value, 100 * h.value,
                xerr=[[100 * max(0.0, u.value - u.low)], [100 * max(0.0, u.high - u.value)]],
                yerr=[[100 * max(0.0, h.value - h.low)], [100 * max(0.0, h.high - h.value)]],
                fmt=display.marker, color=display.colour, ecolor=display.colour, elinewidth=1.6 if ours else 0.9, alpha=1.0,
                markersize=11 if ours else 8, markeredgecolor="white", markeredgewidth=0.8,
                zorder=5 if ours else 4, label=name,
            )  # fmt: skip
        ax.set_xlabel(f"Utility: {entry.benchmark_name(utility)} (%)  → better")
        ax.set_ylabel(f"Harm: {entry.benchmark_name(harm)} (%)\n← better (down)")
        ax.set_ylim(bottom=-3)  # a marker at 0 stays whole
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8.5, labelspacing=0.7)
        n = max(h.n for _, h in rates.values())
        ax.set_title(
            f"{entry.title}: {entry.prompts}, bars are 95 % intervals (harm n ≤ {n})", loc="left", fontsize=10
        )
    return paths


def heatmap(entry: Entry, point: Point | None, stem: Path) -> list[Path]:
    """rho by layer and kind; modules that the selected point merged are outlined."""
    paths: list[Path] = []
    if not entry.spec.similarity:
        return paths
    import numpy as np
    from matplotlib.patches import Patch, Rectangle

    rows = [
        row
        for row in read_table(entry.path(entry.spec.similarity), only_known=True)
        if math.isfinite(row.rho)
    ]
    layers = sorted({row.layer for row in rows if row.layer is not None})
    kinds = list(dict.fromkeys(row.kind for row in rows))
    if not layers:
        return paths
    values = np.full((len(kinds), len(layers)), np.nan)
    where = {}
    for row in rows:
        if row.layer is not None:
            where[row.module] = (kinds.index(row.kind), layers.index(row.layer))
            values[where[row.module]] = row.rho
    selected = set(point.spec.selected) if point else set()
    with figure(max(6.0, 1.9 + 0.3 * len(layers)), 1.7 + 0.36 * len(kinds), paths, stem) as (fig, axes):
        ax = axes[0][0]
        ax.grid(False)
        image = ax.imshow(values, cmap="cividis", aspect="auto", interpolation="nearest")
        for name in sorted(selected & set(where)):
            y, x = where[name]
            ax.add_patch(
                Rectangle((x - 0.43, y - 0.43), 0.86, 0.86, fill=False, edgecolor="#D55E00", linewidth=2.0)
            )
        ax.set_yticks(range(len(kinds)), kinds)
        step = max(1, math.ceil(len(layers) / 24))
        ax.set_xticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]])
        ax.set_xlabel("layer")
        fig.colorbar(image, ax=ax, label="ρ", pad=0.015)
        ax.set_title(f"ρ of each LoRA module ({entry.title})", loc="left", fontsize=10)
        if selected:
            patch = Patch(
                fill=False,
                edgecolor="#D55E00",
                linewidth=2,
                label=f"merged by the selected point: {len(selected)} of {len(rows)}",
            )
            fig.legend(handles=[patch], loc="outside lower right", fontsize=8.5)
    return paths


def tau_curve(entry: Entry, chosen: Chosen, stem: Path) -> list[Path]:
    """Over tau: modules merged above, utility and harm per alpha below; the whole grid, not a result.

    One way of combining, that of the first selected SafeMERGE point.
    """
    from matplotlib.ticker import MaxNLocator

    utility, harm = _axes(entry)
    ours = first_of(chosen, "safemerge")
    points = [p for p in entry.points if p.method == "safemerge" and _finite(p.spec.tau)]
    points = [p for p in points if ours is None or p.spec.combine == ours.spec.combine]
    in_nulls = of_null((ours or points[0]).spec.tau_setting) if points else False
    points = [p for p in points if of_null(p.spec.tau_setting) == in_nulls]
    split = "all" if all(p.answered(b, "all") for p in points for b in p.completions) else "dev"
    points = [p for p in points if all(rate_of(entry, p, b, split).n for b in (utility, harm))]
    paths: list[Path] = []
    if not utility or not harm or len({p.spec.tau for p in points}) < 2:
        return paths
    alphas = sorted({p.spec.alpha or 0.0 for p in points})
    base = {m: next((p for p in entry.points if p.method == m), None) for m in ("aligned", "finetuned")}
    with figure(7.2, 6.8, paths, stem, rows=3) as (fig, axes):
        count, top, bottom = (row[0] for row in axes)
        merged = sorted({(p.spec.tau, p.spec.merged_modules) for p in points})
        count.step(*zip(*merged, strict=True), where="post", color="#444444", marker="o", markersize=4)
        count.set_ylabel("modules merged")
        count.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
        which = "all prompts" if split == "all" else "development half"
        name = entry.row_name(points[0])
        count.set_title(f"{name} over τ ({entry.title}, {which})", loc="left", fontsize=10)
        shades = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
        for ax, benchmark, label in ((top, utility, "utility"), (bottom, harm, "harm")):
            for i, alpha in enumerate(alphas):
                line = sorted(
                    (
                        (p.spec.tau or 0.0, rate_of(entry, p, benchmark, split))
                        for p in points
                        if (p.spec.alpha or 0.0) == alpha
                    ),
                    key=lambda pair: pair[0],
                )
                x = [tau for tau, _ in line]
                colour = shades[i % len(shades)]
                ax.plot(
                    x,
                    [100 * r.value for _, r in line],
                    "-",
                    marker="osD^vP"[i % 6],
                    markersize=5,
                    color=colour,
                    label=f"α = {alpha:g}",
                )
                ax.fill_between(
                    x,
                    [100 * r.low for _, r in line],
                    [100 * r.high for _, r in line],
                    color=colour,
                    alpha=0.12,
                    linewidth=0,
                )
            for method, point in base.items():
                rate = rate_of(entry, point, benchmark, split)
                if point and rate.n:
                    dash = (0, (5, 2)) if method == "aligned" else (0, (1, 1.5))
                    ax.axhline(
                        100 * rate.value,
                        color=point.spec.display.colour,
                        linewidth=1.3,
                        linestyle=dash,
                        label=entry.row_name(point),
                    )
            ax.set_ylabel(f"{label} (%)")
            ax.set_title(entry.benchmark_name(benchmark), loc="right", fontsize=8.5)
        for ax in (count, top, bottom):
            ax.sharex(bottom)
            if ours and _finite(ours.spec.tau):
                ax.axvline(ours.spec.tau, color="#000000", linewidth=0.9, linestyle="-", alpha=0.45, zorder=1)
        unit = ", in units of each module's null" if in_nulls else ""
        bottom.set_xlabel(f"τ{unit} (the grey line is the selected one)")
        bottom.set_ylim(bottom=0)
        legend_below(fig, min(6, len(alphas) + 2), *top.get_legend_handles_labels(), fontsize=8.5)
    return paths


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
