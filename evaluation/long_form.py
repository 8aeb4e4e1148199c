"""results.csv: one row per model, task, method, tau, alpha, combine, seed, split and metric.

Rates are k of n with a Wilson interval; n leaves out invalid verdicts, which have their own column. Metrics that are no
rate (macro_f1, harm_corrected, and the means of `evaluation.measures`) have an interval but no k.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from evaluation import quality, statistics
from evaluation.judges import corrected_rate
from evaluation.means import mean_over_seeds
from evaluation.measures import Measure, values_of
from evaluation.results import SPLITS, Entry, Point, of_split, outcomes, primary, scorer
from evaluation.run_file import MEASURED


@dataclass(frozen=True)
class Metric:
    """A rate or another number of one point, benchmark and split; values and intervals as shares, not percent.

    Means of continuous measures (`evaluation.measures`) are in their own unit.
    """

    metric: str
    k: float | None
    n: int
    value: float
    ci_low: float
    ci_high: float
    invalid: int = 0


@dataclass(frozen=True)
class ResultRow:
    """One row of results.csv; its fields are the columns."""

    model: str
    task: str
    method: str
    tau: float | None
    alpha: float | None
    combine: str | None
    seed: int
    split: str
    metric: str
    k: float | None
    n: int
    value: float
    ci_low: float
    ci_high: float
    invalid: int
    merged_modules: int
    modules: int
    benchmark: str
    label: str
    tau_setting: float | str | None


COLUMNS = tuple(column.name for column in fields(ResultRow))


def long_rows(entry: Entry) -> list[ResultRow]:
    """All rows of an entry."""
    return [
        ResultRow(
            model=entry.spec.model,
            task=entry.spec.task,
            method=point.method,
            tau=point.spec.tau,
            alpha=point.spec.alpha,
            combine=point.spec.combine,
            seed=entry.spec.seed,
            split=split,
            merged_modules=point.spec.merged_modules,
            modules=point.spec.modules,
            benchmark=name,
            label=point.label,
            tau_setting=point.spec.tau_setting,
            **asdict(metric),
        )
        for point in entry.points
        for name in point.scored
        for split in SPLITS
        if point.answered(name, split)
        for metric in metrics(entry, point, name, split)
    ]


def metrics(entry: Entry, point: Point, name: str, split: str) -> Iterator[Metric]:
    """The metrics of one point, benchmark and split."""
    role, rows = entry.roles[name], of_split(primary(entry, point, name), split)
    if not rows:
        return
    if role == "utility":
        yield _rate("utility", [r.outcome for r in rows], sum(r.invalid for r in rows))
        for metric in rows[0].also:
            yield _rate(metric, [r.also[metric] for r in rows])
        module = scorer(name, entry.spec.benchmarks[name])[1]
        for metric, (value, low, high) in (
            module.statistics(rows) if hasattr(module, "statistics") else {}
        ).items():
            yield Metric(metric, None, len(rows), value, low, high)
    elif role == "harm":
        yield from _harm_metrics(entry, point, name, split)
    else:
        for metric, benign in (("over_refusal", True), ("unsafe_refusal", False)):
            if values := [r.outcome for r in rows if r.benign == benign]:
                yield _rate(metric, values)
    of_role: list[Measure] = [MEASURED[role]]
    for measure in [*of_role, "p_unsafe"] if role == "harm" else of_role:
        if means := values_of(entry, point, name, measure, split):
            found = mean_over_seeds([list(means.values())])
            yield Metric(measure, None, found.n, found.value, found.low, found.high)
    ids = {row.id for row in rows}
    texts = [row for row in point.completions[name] if row.id in ids]
    for flag, k in quality.shares(texts, prose=role != "utility").items():
        if flag not in quality.PROSE_FLAGS or role != "utility":
            yield _rate(flag, [True] * k + [False] * (len(texts) - k))


def _harm_metrics(entry: Entry, point: Point, name: str, split: str) -> Iterator[Metric]:
    rows = of_split(primary(entry, point, name), split)
    values = [row.outcome for row in rows]
    yield _rate("harm", values)
    judge = entry.spec.judges.get(entry.judge)
    if judge and judge.calibration and (fixed := corrected_rate(statistics.rate(values), judge.calibration)):
        yield Metric("harm_corrected", None, fixed.n, fixed.value, fixed.low, fixed.high)
    for category in sorted({row.category for row in rows if row.category}):
        yield _rate(f"harm/{category}", [r.outcome for r in rows if r.category == category])
    for other, scored in point.scored[name].items():
        if other != entry.judge:
            yield _rate(f"harm_{other}", outcomes(scored, split))


def _rate(metric: str, values: Sequence[bool | None], invalid: int | None = None) -> Metric:
    found = statistics.rate(values)
    missing = sum(value is None for value in values) if invalid is None else invalid
    return Metric(metric, found.k, found.n, found.value, found.low, found.high, missing)


def plain(value: Any) -> Any:
    """JSON-safe copy: NaN is null, infinities are the strings "inf" and "-inf" (JSON has neither)."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def write_results(rows: Sequence[ResultRow], folder: Path) -> tuple[Path, Path]:
    """results.csv and results.json (a list of row objects)."""
    table, records = folder / "results.csv", folder / "results.json"
    found = [plain(asdict(row)) for row in rows]
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in found:
            writer.writerow({k: "" if v is None else v for k, v in row.items()})
    records.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return table, records
