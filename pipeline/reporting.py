"""Write run.json and the report from it: of this run, and in a multirun over all its seeds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from evaluation.report import ReportSummary, build_report, print_headline
from evaluation.run_file import Cost, EntryRecord, RunFile, read_run
from pipeline import artifacts, grid, locks, plan, provenance, run_record
from pipeline.costs import StageCost
from pipeline.settings import Config
from pipeline.store import Store, digest
from pipeline.tracking import Tracker
from safemerge.errors import UserError


def write(
    x: plan.Experiment,
    store: Store,
    candidates: Sequence[grid.Candidate],
    console: Console,
    tracker: Tracker,
    *,
    costs: Sequence[StageCost],
    seconds: float,
    multirun: bool,
) -> None:
    """run.json and report/ for this run, in a multirun also over the seeds; then print the headline.

    costs: of the stages of this run so far; those that made nothing are left out.
    """
    spent = [Cost(**asdict(cost)) for cost in costs if cost.made]
    runs = Path(x.config.runs).absolute()
    runs.mkdir(parents=True, exist_ok=True)
    with locks.new(
        runs / ".lock", store.locks
    ):  # jobs of a multirun write the report over their seeds, and the link
        summary = _written(x, store, candidates, runs / plan.run_name(x.config), spent, seconds, multirun)
    if spent or tracker.run is not None:
        tracker.report(summary.rows, summary.figures, spent)
    print_headline(summary, console)


def _written(
    x: plan.Experiment,
    store: Store,
    candidates: Sequence[grid.Candidate],
    folder: Path,
    spent: list[Cost],
    seconds: float,
    multirun: bool,
) -> ReportSummary:
    path = folder / "run.json"
    entry = run_record.entry(x, store, folder, candidates)
    old = _earlier(path)
    fingerprint = digest({"entry": entry.model_dump(mode="json"), "git": provenance.git().model_dump()})
    if old is None or old.fingerprint != fingerprint or not (folder / "report" / "report.html").exists():
        new = _run_file(x, store, entry, candidates, fingerprint)
        # A run that found its work done must not claim to have done it in a second: the first time is kept.
        new.wall_time_s = round(seconds, 1) if spent or old is None else old.wall_time_s
        new.costs = spent or (old.costs if old else [])
        new.write(path)
    summary = build_report(path, folder / "report")
    together = over_seeds(x.config, folder.parent) if multirun else None
    if together is not None:
        folder = together.parent
        summary = build_report(together, folder / "report")
    _point_at(folder)
    return summary


def _earlier(path: Path) -> RunFile | None:
    """The run.json of an earlier run of that name; None without one, or if another version wrote it."""
    try:
        return read_run(path)
    except UserError:
        return None


def _run_file(
    x: plan.Experiment,
    store: Store,
    entry: EntryRecord,
    candidates: Sequence[grid.Candidate],
    fingerprint: str,
) -> RunFile:
    steps = [x.base, x.aligned, x.alignment, x.guard, *x.trained, *x.prepared, *run_record.needed(candidates)]
    made = [artifacts.made(store.path(step)) for step in steps if step is not None and store.has(step)]
    return RunFile(
        run=plan.run_name(x.config),
        fingerprint=fingerprint,
        created=provenance.now(),
        git=provenance.git(),
        packages=provenance.packages(),
        machine=provenance.machine(),
        wall_time_s=0.0,
        peak_memory_bytes=max((its.peak_memory_bytes for its in made), default=0),
        made_by=sorted({its.code for its in made}),
        config=x.config.model_dump(by_alias=True),
        keep_gain=x.config.selection.keep_gain,
        settings=plan.settings(x.config, seeds=True),
        runs=[entry],
    )


def _point_at(folder: Path) -> None:
    """`latest`, beside the folder of runs, becomes a link to this one."""
    latest = folder.parent.parent / "latest"
    if latest.is_symlink() or not latest.exists():
        temporary = latest.with_name(".latest")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(os.path.relpath(folder, latest.parent))
        os.replace(temporary, latest)


def over_seeds(config: Config, runs: Path) -> Path | None:
    """run.json over all runs in `runs` that this code reported and that differ from this one in the seed only.

    None while there is one seed. It lies in a folder beside theirs, so that the relative paths in their entries hold.
    Each job of a multirun writes it anew; the last one to finish writes it complete.
    """
    ours, git = plan.settings(config, seeds=True), provenance.git()
    found: dict[int, RunFile] = {}
    for path in sorted(runs.glob("*/run.json")):
        run = _earlier(path)
        if run and len(run.runs) == 1 and run.settings == ours and run.git == git:
            found[run.runs[0].seed] = run
    if len(found) < 2:
        return None
    members = [found[seed] for seed in sorted(found)]
    name = plan.run_name(config, seeds=True)
    path = runs / name / "run.json"
    together = members[0].model_copy(
        update={
            "run": name,
            "wall_time_s": round(sum(run.wall_time_s for run in members), 1),
            "peak_memory_bytes": max(run.peak_memory_bytes for run in members),
            "costs": [cost for run in members for cost in run.costs],
            "made_by": sorted({code for run in members for code in run.made_by}),
            "runs": [entry for run in members for entry in run.runs],
        }
    )
    together.write(path)
    return path
