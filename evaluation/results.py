"""From run.json and the artifacts it names to scored prompts, and from those to the long-form results.

One row per model, task, method, tau, alpha, combine, seed, split and metric. Rates are k of n with a Wilson
interval; n leaves out invalid verdicts, which have their own column. Metrics that are no rate (macro_f1,
harm_corrected) have an interval but no k.
"""

from __future__ import annotations

import csv
import importlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation import quality, selection, statistics
from evaluation.judges import corrected_rate
from safemerge.errors import UserError

Rows = list[dict[str, Any]]
HALVES = ("dev", "test")
SPLITS = (*HALVES, "all")
COLUMNS = (
    *("model", "task", "method", "tau", "alpha", "combine", "seed", "split", "metric", "k", "n", "value"),
    *("ci_low", "ci_high", "invalid", "merged_modules", "modules", "benchmark", "label", "tau_setting"),
)
ROLES = ("utility", "harm", "over_refusal")


@dataclass
class Point:
    """One adapter of one run.

    Its settings, its completions and its scored prompts per benchmark (and judge).
    """

    spec: dict[str, Any]
    completions: dict[str, Rows] = field(default_factory=dict)
    scored: dict[str, dict[str, Rows]] = field(default_factory=dict)

    @property
    def method(self) -> str:
        return str(self.spec["method"])

    @property
    def label(self) -> str:
        return str(self.spec.get("label") or self.method)

    def answered(self, benchmark: str, split: str) -> bool:
        """Whether it answered these prompts of a benchmark: dev, test, or all. A grid may stop at the development half."""
        halves = (self.spec.get("halves") or {}).get(benchmark, HALVES)
        return benchmark in self.completions and set(HALVES if split == "all" else [split]) <= set(halves)


@dataclass
class Entry:
    """One (model, task, seed) of a run.json, loaded and scored."""

    spec: dict[str, Any]
    root: Path
    roles: dict[str, str]
    items: dict[str, Rows]
    points: list[Point]
    judge: str

    @property
    def key(self) -> tuple[str, ...]:
        """What makes runs one experiment but for the seed: model, task, data source and precision."""
        precision = self.spec.get("precision") or {}
        names = dict.fromkeys(str(precision[k]) for k in ("training", "generation") if precision.get(k))
        return (
            str(self.spec["model"]),
            str(self.spec["task"]),
            str(self.spec.get("data") or ""),
            "/".join(names),
        )

    def path(self, name: str) -> Path:
        """A path of run.json, relative to its folder unless absolute."""
        return self.root / name

    def benchmarks(self, role: str) -> list[str]:
        """Benchmarks with this role; for utility the task's own first, since that one is the headline."""
        names = [name for name, its in self.roles.items() if its == role]
        return sorted(names, key=lambda n: n != self.spec["task"]) if role == "utility" else names


def read_jsonl(path: Path) -> Rows:
    """Rows of a JSON-lines file; a bad line names the file and the line."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; run the stage that writes it again"
        ) from error
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise UserError(f"{path}, line {number} is not JSON: {error}") from error
    return rows


def read_run(path: Path) -> dict[str, Any]:
    """A run.json, checked for what the report cannot do without."""
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; give the run.json of a finished run"
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(run, dict) or not run.get("runs"):
        raise UserError(f"{path} holds no runs: give the run.json that the report stage writes")
    return dict(run)


def keep_of(runs: list[dict[str, Any]]) -> float:
    """The share of the gained utility that the runs' own configuration asks a chosen point to keep."""
    settings = [(run.get("config") or {}).get("selection") or {} for run in runs]
    found = {float(its["keep_gain"]) for its in settings if "keep_gain" in its}
    if len(found) > 1:
        raise UserError(f"the runs were made with different selection.keep_gain ({found}); give --keep")
    return found.pop() if found else selection.KEEP


def load(path: Path) -> tuple[dict[str, Any], list[Entry]]:
    """The run and its scored entries."""
    run = read_run(path)
    return run, [load_entry(spec, path.parent) for spec in run["runs"]]


def load_entry(spec: dict[str, Any], root: Path) -> Entry:
    """Read items, completions and verdicts of one entry and score them."""
    benchmarks = spec["benchmarks"]
    for name, its in benchmarks.items():
        if its["role"] not in ROLES:
            raise UserError(f"benchmark {name} has role {its['role']!r}: use one of {', '.join(ROLES)}")
    items = {name: read_jsonl(root / its["items"]) for name, its in benchmarks.items()}
    roles = {name: its["role"] for name, its in benchmarks.items()}
    entry = Entry(spec, root, roles, items, [], str(spec.get("primary_judge") or "refusal"))
    for point in spec["points"]:
        entry.points.append(load_point(point, entry, benchmarks))
    return entry


def load_point(spec: dict[str, Any], entry: Entry, benchmarks: dict[str, Any]) -> Point:
    """Score one point on every benchmark that it has completions for."""
    point = Point(spec)
    for name, files in spec["completions"].items():
        if name not in benchmarks:
            raise UserError(
                f"point {point.label!r} has completions for {name!r}, which the run does not list"
            )
        score, knobs = scorer(name, benchmarks[name])
        rows = point.completions[name] = _all_rows(entry, files)
        items = [item for item in entry.items[name] if point.answered(name, item["half"])]
        if entry.roles[name] == "utility":
            point.scored[name] = {"": score(items, rows, **knobs)}
            continue
        verdicts = (spec.get("verdicts") or {}).get(name) or {}
        judged = {judge: _all_rows(entry, its) for judge, its in verdicts.items()}
        point.scored[name] = {j: score(items, rows, its, **knobs) for j, its in judged.items()}
        if "refusal" not in judged:
            point.scored[name]["refusal"] = score(items, rows, **knobs)
    return point


def _all_rows(entry: Entry, files: str | list[str]) -> Rows:
    """The rows of one file, or of one file per half."""
    return [
        row for file in ([files] if isinstance(files, str) else files) for row in read_jsonl(entry.path(file))
    ]


def scorer(name: str, benchmark: dict[str, Any]) -> tuple[Callable[..., Rows], dict[str, Any]]:
    """The score function of a benchmark and its knobs.

    `target` when the run names it, else by role and name.
    """
    default = {"harm": "harm", "over_refusal": "xstest"}.get(benchmark["role"], name)
    target = str(benchmark.get("target") or f"evaluation.benchmarks.{default}.score")
    module, _, function = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), function), dict(benchmark.get("knobs") or {})
    except (ImportError, AttributeError) as error:
        raise UserError(f"benchmark {name}: there is no scorer {target} ({error})") from error


def primary(entry: Entry, point: Point, benchmark: str) -> Rows:
    """Scored rows by the judge that counts: the primary one for harm, refusal phrases for over-refusal."""
    scored = point.scored.get(benchmark, {})
    wanted = {"utility": "", "over_refusal": "refusal"}.get(entry.roles[benchmark], entry.judge)
    return scored.get(wanted) or next(iter(scored.values()), [])


def outcomes(rows: Rows, split: str, key: str) -> list[bool | None]:
    """One outcome per prompt of the split, in item order; None is an invalid verdict."""
    return [row[key] for row in rows if split in ("all", row["half"])]


OUTCOME = {"utility": "correct", "harm": "harmful", "over_refusal": "refused"}


def of_role(entry: Entry, point: Point, benchmark: str, split: str) -> list[bool | None]:
    """The headline outcomes of a benchmark: correct, harmful, or refused among the benign prompts."""
    role, rows = entry.roles[benchmark], primary(entry, point, benchmark)
    if role == "over_refusal":
        rows = [row for row in rows if row["benign"]]
    return outcomes(rows, split, OUTCOME[role])


def long_rows(entry: Entry) -> Rows:
    """All long-form rows of an entry."""
    rows = []
    for point in entry.points:
        spec = point.spec
        head = {
            "model": entry.spec["model"],
            "task": entry.spec["task"],
            "method": point.method,
            "tau": spec.get("tau"),
            "alpha": spec.get("alpha"),
            "combine": spec.get("combine"),
            "seed": entry.spec["seed"],
        }
        tail = {
            "merged_modules": spec.get("merged_modules"),
            "modules": spec.get("modules"),
            "label": point.label,
            "tau_setting": spec.get("tau_setting"),
        }
        for name in point.scored:
            for split in (s for s in SPLITS if point.answered(name, s)):
                for metric in metrics(entry, point, name, split):
                    rows.append({**head, "split": split, **metric, **tail, "benchmark": name})
    return [{column: row[column] for column in COLUMNS} for row in rows]


def metrics(entry: Entry, point: Point, name: str, split: str) -> Iterator[dict[str, Any]]:
    """Metric rows of one point, benchmark and split."""
    role, rows = entry.roles[name], primary(entry, point, name)
    rows = [row for row in rows if split in ("all", row["half"])]
    if not rows:
        return
    if role == "utility":
        yield _rate("utility", [r["correct"] for r in rows], sum(r["invalid"] for r in rows))
        module = importlib.import_module(scorer(name, entry.spec["benchmarks"][name])[0].__module__)
        for metric, values in (module.extra(rows) if hasattr(module, "extra") else {}).items():
            yield _rate(metric, values)
        for metric, (value, low, high) in (
            module.statistics(rows) if hasattr(module, "statistics") else {}
        ).items():
            yield _row(metric, None, len(rows), value, low, high)
    elif role == "harm":
        yield from _harm_metrics(entry, point, name, split, rows)
    else:
        for metric, benign in (("over_refusal", True), ("unsafe_refusal", False)):
            if values := [r["refused"] for r in rows if r["benign"] == benign]:
                yield _rate(metric, values)
    ids = {row["id"] for row in rows}
    texts = [row for row in point.completions[name] if row["id"] in ids]
    for flag, k in quality.shares(texts, prose=role != "utility").items():
        if flag not in quality.PROSE_FLAGS or role != "utility":
            yield _rate(flag, [True] * k + [False] * (len(texts) - k))


def _harm_metrics(entry: Entry, point: Point, name: str, split: str, rows: Rows) -> Iterator[dict[str, Any]]:
    values = [row["harmful"] for row in rows]
    yield _rate("harm", values)
    calibration = ((entry.spec.get("judges") or {}).get(entry.judge) or {}).get("calibration")
    if calibration and (fixed := corrected_rate(statistics.rate(values), calibration)):
        yield _row("harm_corrected", None, fixed.n, fixed.value, fixed.low, fixed.high)
    for category in sorted({row["category"] for row in rows if row["category"]}):
        yield _rate(f"harm/{category}", [r["harmful"] for r in rows if r["category"] == category])
    for judge, scored in point.scored[name].items():
        if judge != entry.judge:
            yield _rate(f"harm_{judge}", outcomes(scored, split, "harmful"))


def _rate(metric: str, values: Sequence[bool | None], invalid: int | None = None) -> dict[str, Any]:
    found = statistics.rate(values)
    missing = sum(value is None for value in values) if invalid is None else invalid
    return _row(metric, found.k, found.n, found.value, found.low, found.high, missing)


def _row(
    metric: str, k: float | None, n: int, value: float, low: float, high: float, invalid: int = 0
) -> dict[str, Any]:
    return {
        "metric": metric,
        "k": k,
        "n": n,
        "value": value,
        "ci_low": low,
        "ci_high": high,
        "invalid": invalid,
    }


def plain(value: Any) -> Any:
    """JSON-safe copy: NaN is null, infinities are the strings "inf" and "-inf" (JSON has neither)."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def write_results(rows: Rows, folder: Path) -> tuple[Path, Path]:
    """results.csv and results.json (a list of row objects)."""
    table, records = folder / "results.csv", folder / "results.json"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in rows:
            writer.writerow({k: "" if v is None else v for k, v in plain(row).items()})
    records.write_text(json.dumps(plain(rows), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return table, records
