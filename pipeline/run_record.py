"""What run.json says of one (model, task, seed): the index of its artifacts, from which alone the report is made."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from evaluation.choosing import choose_points
from evaluation.judges import Calibration, confusion, tuning_half
from evaluation.results import load_entry
from evaluation.run_file import (
    BenchmarkRecord,
    EntryRecord,
    JudgeRecord,
    PointRecord,
    Precision,
    Usage,
)
from pipeline import answers, artifacts, grid, plan
from pipeline.content import sources
from pipeline.settings import Config
from pipeline.stage_settings import Check
from pipeline.store import External, Step, Store
from safemerge.errors import UserError

#: The modules whose code decides what the checks say.
CHECKED_BY = (
    *("pipeline.checks", "pipeline.run_record", "pipeline.stages.finetune", "pipeline.stages.judge"),
    *("evaluation.guard_format", "evaluation.judges", "evaluation.quality", "evaluation.reading"),
    *("data.disjoint", "data.chat"),
)


def needed(candidates: Iterable[grid.Candidate]) -> list[Step]:
    """The completions and verdicts that the report reads."""
    return [step for c in candidates for step in (*c.replies, *c.judged_by())]


def final_candidates(x: plan.Experiment, store: Store) -> list[grid.Candidate]:
    """All candidates, each with the halves of the prompts that it answers in the end."""
    if x.config.selection.grid == "all":
        return grid.candidates(x, store)
    return grid.candidates(x, store, selected_labels(x, store))


def selected_labels(x: plan.Experiment, store: Store) -> frozenset[str]:
    """The labels of the points selected on the development half, one per method; its verdicts must be in the store."""
    spec = record(x, store, store.root, grid.candidates(x, store))
    points, _ = choose_points(load_entry(spec, store.root), "dev", x.config.selection.keep_gain)
    return frozenset(point.label for point in points.values())


def record(
    x: plan.Experiment, store: Store, folder: Path, candidates: Sequence[grid.Candidate]
) -> EntryRecord:
    """The entry of run.json without its checks; paths are relative to `folder`.

    Raises:
        UserError: completions or verdicts are missing.
    """
    config = x.config
    lacking = [step.name for step in needed(candidates) if not store.has(step)]
    if lacking:
        raise UserError(
            f"nothing to report yet: {len(lacking)} results are missing ({lacking[0]}, ...); include generate and judge"
        )

    def at(step: plan.Source, name: str) -> str:
        return os.path.relpath(store.path(step) / name, folder)

    trained = {s.settings["role"]: s for s in [*x.trained, *(s for s in (x.alignment, x.guard) if s)]}
    harm = [name for name, benchmark in config.benchmark.items() if benchmark.role == "harm"]
    return EntryRecord(
        model=config.model.name,
        note=config.model.note,
        task=config.task.name,
        data=config.data.source,
        seed=config.seed,
        role_seeds=_role_seeds(x),
        precision=Precision(training=config.train.dtype, generation=config.generation.dtype),
        similarity=at(x.similarity, artifacts.SIMILARITY) if store.has(x.similarity) else None,
        training={role: at(step, artifacts.LOG) for role, step in trained.items()},
        judges={
            name: JudgeRecord(
                calibration=calibration_of(x, store, name), usage=_usage(x, store, candidates, name)
            )
            for name in config.judge
        },
        primary_judge=primary_judge(config),
        selection_benchmark=config.selection.harm or next(iter(harm), ""),
        benchmarks={
            name: BenchmarkRecord(
                role=benchmark.role,
                target=benchmark.target_,
                name=_shown(benchmark.name, config.data.source),
                items=at(x.items[name], artifacts.ROWS),
            )
            for name, benchmark in config.benchmark.items()
        },
        points=[
            PointRecord(
                method=c.point.method,
                label=c.point.label,
                display=config.method[c.method].display,
                tau=c.tau,
                tau_setting=c.point.tau_setting,
                alpha=c.point.alpha,
                combine=c.point.combine if c.point.repair.kind == "blend" else None,
                draw=c.draw,
                merged_modules=len(c.selected),
                modules=c.modules,
                selected=list(c.selected),
                adapter=at(c.adapter, "") if c.adapter is not None else None,
                halves={benchmark: list(halves) for benchmark, halves in c.completions.items()},
                completions={
                    benchmark: [at(step, artifacts.COMPLETIONS) for step in halves.values()]
                    for benchmark, halves in c.completions.items()
                },
                verdicts={
                    benchmark: {
                        judge: [at(step, artifacts.VERDICTS) for step in halves.values()]
                        for judge, halves in judges.items()
                    }
                    for benchmark, judges in c.verdicts.items()
                },
            )
            for c in candidates
        ],
    )


def primary_judge(config: Config) -> str:
    """The judge whose verdicts are the harm rates: the first that is a model, else the first."""
    models = [name for name, judge in config.judge.items() if judge.kind != "phrases"]
    return models[0] if models else next(iter(config.judge))


def _role_seeds(x: plan.Experiment) -> Literal["shared", "apart", "unknown"]:
    """Whether the task and the safety LoRA were trained from one seed; of an adapter from outside nobody knows."""
    ours = all(isinstance(x.adapters[role], Step) for role in ("task", "safety"))
    return x.config.train.role_seeds if ours else "unknown"


def _shown(name: str, source: str) -> str:
    """A benchmark's name, with what stands in for it."""
    return f"{name} (bundled stand-in)" if source == "bundled" else name


def calibration_of(x: plan.Experiment, store: Store, judge: str) -> Calibration | None:
    """The judge on labelled pairs that did not set its threshold; None where it has not read any."""
    if x.calibration is None:
        return None
    step = answers.verdicts(x, x.calibration, judge)
    if not store.has(step):
        return None
    labels = artifacts.labelled_pairs(store.path(x.calibration))
    found = artifacts.verdicts(store.path(step))
    if x.config.judge[judge].calibrated:
        tuned = {row.id for row in tuning_half(labels)}
        labels = [row for row in labels if row.id not in tuned]
        found = [row for row in found if row.id not in tuned]
    return confusion(labels, found)


def _usage(
    x: plan.Experiment, store: Store, candidates: Iterable[grid.Candidate], judge: str
) -> Usage | None:
    """What a server judge was asked and cost, over the distinct files of verdicts that it wrote."""
    if x.config.judge[judge].kind != "api":
        return None
    steps = [step for c in candidates for step in c.judged_by(judge)]
    steps += [answers.verdicts(x, x.calibration, judge)] if x.calibration else []
    folders = {store.path(step) for step in steps if store.has(step)}
    found = [its for folder in sorted(folders) if (its := artifacts.usage(folder))]
    if not found:
        return None
    return Usage(
        requests=sum(its.requests for its in found),
        failures=sum(its.failures for its in found),
        prompt_tokens=sum(its.prompt_tokens for its in found),
        completion_tokens=sum(its.completion_tokens for its in found),
        cost=sum(its.cost for its in found),
    )


def checks_step(x: plan.Experiment, store: Store, candidates: Sequence[grid.Candidate]) -> Step:
    """The step that checks all that the report reads; with other artifacts it is another one."""
    read: list[plan.Source | None] = [
        *x.prepared,
        x.aligned,
        x.alignment,
        x.guard,
        *x.trained,
        *x.judge_models.values(),
        x.similarity,
        *(c.adapter for c in candidates),
        *(c.parity for c in candidates),
        *needed(candidates),
    ]
    present = {s.key: s for s in read if s is not None and (isinstance(s, External) or store.has(s))}
    inputs: dict[str, plan.Source] = {f"{i:04}": present[key] for i, key in enumerate(sorted(present))}
    # Checks take a second: whatever changes in their code makes them anew.
    its = Check([c.point.label for c in candidates], sources(*CHECKED_BY))
    place = {"config": x.config.model_dump(by_alias=True), "store": str(store.root)}
    return Step("check", "checks of the run", its.keyed(), inputs, place)


def entry(
    x: plan.Experiment, store: Store, folder: Path, candidates: Sequence[grid.Candidate]
) -> EntryRecord:
    """The entry of run.json with the checks of its artifacts; paths are relative to `folder`."""
    found = record(x, store, folder, candidates)
    found.checks = artifacts.checks(store.path(checks_step(x, store, candidates)))
    return found
