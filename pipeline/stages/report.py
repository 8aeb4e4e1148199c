"""What the report reads: `run.json`, an index of the run's artifacts, and from it tables, figures and pages."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from data.schema import read_jsonl
from evaluation.choosing import choose_points
from evaluation.judges import confusion, tuning_half
from evaluation.report import build_report, print_headline
from evaluation.results import load_entry
from pipeline import grid, plan, provenance
from pipeline.costs import StageCost
from pipeline.settings import Config
from pipeline.store import MANIFEST, External, Step, Store, digest
from pipeline.tracking import Tracker
from safemerge.errors import UserError


def _needed(x: plan.Experiment, candidates: list[grid.Candidate]) -> list[Step]:
    replies = [(b, step) for c in candidates for b in x.config.benchmark for step in grid.replies(x, c, b)]
    return [
        *(step for _, step in replies),
        *(grid.verdicts(x, s, j) for b, s in replies for j in grid.judges_of(x, b)),
    ]


def _calibration(x: plan.Experiment, store: Store, name: str) -> dict[str, Any]:
    if x.calibration is None or not store.has(grid.verdicts(x, x.calibration, name)):
        return {}
    labels = read_jsonl(store.path(x.calibration) / "rows.jsonl")
    found = read_jsonl(store.path(grid.verdicts(x, x.calibration, name)) / "verdicts.jsonl")
    if x.config.judge[name].calibrated:
        tuned = {row["id"] for row in tuning_half(labels)}
        labels, found = ([row for row in rows if row["id"] not in tuned] for rows in (labels, found))
    return {"calibration": {"n": len(labels), **confusion(labels, found)}}


def _usage(x: plan.Experiment, store: Store, candidates: list[grid.Candidate], name: str) -> dict[str, Any]:
    """What a server judge was asked and cost, over the distinct files of verdicts that it wrote."""
    if x.config.judge[name].kind != "api":
        return {}
    read = [b for b in x.config.benchmark if name in grid.judges_of(x, b)]
    sources = [step for c in candidates for b in read for step in grid.replies(x, c, b)]
    files = {store.path(grid.verdicts(x, s, name)) / "usage.json" for s in [*sources, x.calibration] if s}
    found = [json.loads(file.read_text()) for file in sorted(files) if file.exists()]
    return {"usage": {key: sum(each[key] for each in found) for key in found[0]}} if found else {}


def selected_labels(x: plan.Experiment, store: Store) -> frozenset[str]:
    """The labels of the points selected on the development half, one per method; its verdicts must be in the store."""
    folder = store.root
    spec = _entry(x, store, folder, grid.candidates(x, store))
    points, _ = choose_points(load_entry(spec, folder), "dev", x.config.selection.keep_gain)
    return frozenset(point.label for point in points.values())


def final_candidates(x: plan.Experiment, store: Store) -> list[grid.Candidate]:
    """All candidates, each with the halves of the prompts that it answers in the end."""
    if x.config.selection.grid == "all":
        return grid.candidates(x, store)
    return grid.candidates(x, store, selected_labels(x, store))


def _entry(
    x: plan.Experiment, store: Store, folder: Path, candidates: list[grid.Candidate]
) -> dict[str, Any]:
    """One (model, task, seed) for run.json without its checks; paths are relative to `folder`."""
    config = x.config
    lacking = [s.name for s in _needed(x, candidates) if not store.has(s)]
    if lacking:
        raise UserError(
            f"nothing to report yet: {len(lacking)} results are missing ({lacking[0]}, ...); include generate and judge"
        )

    def at(step: plan.Source, name: str) -> str:
        return os.path.relpath(store.path(step) / name, folder)

    points = []
    for c in candidates:
        replies = {b: its for b in config.benchmark if (its := grid.replies(x, c, b))}
        point = c.point
        points.append(
            {
                "method": point.method,
                "label": point.label,
                "tau": c.tau,
                "tau_setting": point.tau_setting,
                "alpha": point.alpha,
                "combine": point.combine if point.repair.kind == "blend" else None,
                "draw": point.selection.seed if point.selection.rule == "random" else None,
                "merged_modules": len(c.selected),
                "modules": c.modules,
                "selected": list(c.selected),
                "adapter": at(c.adapter, "") if c.adapter is not None else None,
                "halves": {b: list(grid.halves_of(x, c, b)) for b in replies},
                "completions": {b: [at(s, "completions.jsonl") for s in its] for b, its in replies.items()},
                "verdicts": {
                    b: {
                        j: [at(grid.verdicts(x, s, j), "verdicts.jsonl") for s in its]
                        for j in grid.judges_of(x, b)
                    }
                    for b, its in replies.items()
                    if grid.judges_of(x, b)
                },
            }
        )
    trained = {s.settings["role"]: s for s in [*x.trained, *(s for s in (x.alignment, x.guard) if s)]}
    models = [name for name, judge in config.judge.items() if judge.kind != "phrases"]
    return {
        "model": config.model.name,
        "task": config.task.name,
        "data": config.data.source,
        "seed": config.seed,
        "precision": {"training": config.train.dtype, "generation": config.generation.dtype},
        "similarity": at(x.similarity, "similarity.csv") if store.has(x.similarity) else None,
        "training": {role: at(step, "log.jsonl") for role, step in trained.items()},
        "judges": {
            name: _calibration(x, store, name) | _usage(x, store, candidates, name) for name in config.judge
        },
        "primary_judge": models[0] if models else next(iter(config.judge)),
        "benchmarks": {
            name: {"role": b.role, "target": b.target_, "items": at(x.items[name], "rows.jsonl")}
            for name, b in config.benchmark.items()
        },
        "points": points,
    }


def checks_step(x: plan.Experiment, store: Store, candidates: list[grid.Candidate]) -> Step:
    """The step that checks all that the report reads; with other artifacts it is another one."""
    parities = [grid.parity(x, c) for c in candidates]
    needed = [
        *x.prepared,
        x.aligned,
        *(s for s in (x.alignment, x.guard) if s),
        *x.trained,
        *x.judge_models.values(),
    ]
    read = [
        *needed,
        x.similarity,
        *(c.adapter for c in candidates if c.adapter),
        *parities,
        *_needed(x, candidates),
    ]
    present = {source.key: source for source in read if isinstance(source, External) or store.has(source)}
    inputs: dict[str, plan.Source] = {f"{i:04}": present[key] for i, key in enumerate(sorted(present))}
    settings = {"labels": [c.point.label for c in candidates]}
    place = {"config": x.config.model_dump(by_alias=True), "store": str(store.root)}
    return Step("check", "checks of the run", settings, inputs, place)


def entry(x: plan.Experiment, store: Store, folder: Path, candidates: list[grid.Candidate]) -> dict[str, Any]:
    """One (model, task, seed) for run.json with the checks of its artifacts; paths are relative to `folder`."""
    checked = store.path(checks_step(x, store, candidates)) / "checks.json"
    return {**_entry(x, store, folder, candidates), "checks": json.loads(checked.read_text())}


def _save(run: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(run, indent=1) + "\n")
    os.replace(temporary, path)


def over_seeds(config: Config, runs: Path) -> Path | None:
    """run.json over all runs in `runs` that this commit reported and that differ from this one in the seed only.

    None while there is one seed. It lies in a folder beside theirs, so that the relative paths in their entries hold.
    Each job of a multirun writes it anew; the last one to finish writes it complete.
    """
    ours, commit = plan.settings(config, seeds=True), provenance.git()
    found: dict[int, dict[str, Any]] = {}
    for path in sorted(runs.glob("*/run.json")):
        run = json.loads(path.read_text())
        same = run.get("settings") == ours and run.get("git") == commit
        if len(run["runs"]) == 1 and same:
            found[run["runs"][0]["seed"]] = run
    if len(found) < 2:
        return None
    members = [found[seed] for seed in sorted(found)]
    name = plan.run_name(config, seeds=True)
    path = runs / name / "run.json"
    together = {
        "run": name,
        "wall_time_s": round(sum(run["wall_time_s"] for run in members), 1),
        "peak_memory_bytes": max(run["peak_memory_bytes"] for run in members),
        "costs": [cost for run in members for cost in run.get("costs", [])],
        "made_by": sorted({commit for run in members for commit in run.get("made_by", [])}),
        "runs": [entry for run in members for entry in run["runs"]],
    }
    _save({**members[0], **together}, path)
    return path


def _cost(x: plan.Experiment, store: Store, candidates: list[grid.Candidate]) -> dict[str, Any]:
    """The largest peak memory (bytes) of the processes that made the run's artifacts, and the commits that made them."""
    steps = [x.base, x.aligned, x.alignment, x.guard, *x.trained, *x.prepared, *_needed(x, candidates)]
    manifests = [
        json.loads((store.path(s) / MANIFEST).read_text()) for s in steps if s is not None and store.has(s)
    ]
    made_by = {str((m.get("git") or {}).get("commit") or "unknown")[:10] for m in manifests}
    return {
        "peak_memory_bytes": max((m["peak_memory_bytes"] for m in manifests), default=0),
        "made_by": sorted(made_by),
    }


def write(
    x: plan.Experiment,
    store: Store,
    console: Console,
    tracker: Tracker,
    *,
    costs: Sequence[StageCost],
    seconds: float,
    multirun: bool = False,
) -> None:
    """Write <runs>/<run>/run.json, unless nothing has changed, and its report; in a multirun also one over the seeds.

    costs: of the stages of this run so far; those that made nothing are left out.
    """
    spent = [asdict(cost) for cost in costs if cost.made]
    made = bool(spent)
    config = x.config
    folder = Path(config.runs).absolute() / plan.run_name(config)
    folder.mkdir(parents=True, exist_ok=True)
    candidates = final_candidates(x, store)
    path = folder / "run.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    found = entry(x, store, folder, candidates)
    fingerprint = digest({"entry": found, "commit": provenance.git()})
    if old.get("fingerprint") != fingerprint or not (folder / "report" / "report.html").exists():
        run = {
            "run": plan.run_name(config),
            "fingerprint": fingerprint,
            **provenance.collect(),
            # A run that found its work done must not claim to have done it in a second: the first time is kept.
            "wall_time_s": round(seconds, 1)
            if made or not old
            else old.get("wall_time_s", round(seconds, 1)),
            **_cost(x, store, candidates),
            "costs": spent or old.get("costs", []),
            "config": config.model_dump(by_alias=True),
            "settings": plan.settings(config, seeds=True),
            "runs": [found],
        }
        _save(run, path)
    summary = build_report(path, folder / "report", keep=config.selection.keep_gain)
    together = over_seeds(config, folder.parent) if multirun else None
    if together is not None:
        folder = together.parent
        summary = build_report(together, folder / "report", keep=config.selection.keep_gain)
    latest = folder.parent.parent / "latest"
    if latest.is_symlink() or not latest.exists():
        temporary = latest.with_name(".latest")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(os.path.relpath(folder, latest.parent))
        os.replace(temporary, latest)
    if made or tracker.run is not None:
        tracker.report(summary.rows, summary.figures, spent)
    print_headline(summary, console)
