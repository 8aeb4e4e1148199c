"""What run.json says of one (model, task, seed): the index of its artifacts, from which alone the report is made."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from evaluation.choosing import choose_points
from evaluation.judges import Calibration, confusion
from evaluation.results import load_entry
from evaluation.run_file import (
    BenchmarkRecord,
    EffectiveRecord,
    EntryRecord,
    JudgeRecord,
    PointRecord,
    Precision,
    Projection,
    Usage,
)
from pipeline import answers, artifacts, grid, integrity, plan
from pipeline.content import sources
from pipeline.settings import Config
from pipeline.stage_settings import Check
from pipeline.store import MANIFEST, External, Step, Store
from pipeline.unkeyed import Whole
from safemerge.errors import UserError

#: The modules whose code decides what the checks say.
CHECKED_BY = (
    *("pipeline.checks", "pipeline.run_record", "pipeline.stages.finetune", "pipeline.stages.judge"),
    *("evaluation.guard_format", "evaluation.judges", "evaluation.quality", "evaluation.reading"),
    *("evaluation.statistics", "data.disjoint", "data.chat"),
)


def needed(candidates: Iterable[grid.Candidate], *, selecting: bool = False) -> list[Step]:
    """What the report reads: completions, verdicts, what repairs reported of themselves, and measures.

    selecting: without the measures, which are not selected by.
    """
    return [
        step
        for c in candidates
        for step in (*c.replies, *c.judged_by(), *_merging(c), *([] if selecting else c.likelihoods))
    ]


def _merging(candidate: grid.Candidate) -> list[Step]:
    """The step that repairs the candidate's adapter, if one does: where no module was selected, there is none."""
    its = candidate.adapter
    return [its] if isinstance(its, Step) and its.stage == "merge" else []


def _projection(candidate: grid.Candidate, store: Store) -> Projection | None:
    """What a projection reported of itself; None where it had no update to project."""
    repair = candidate.point.repair
    steps = _merging(candidate) if repair.kind == "project" else []
    shrink = artifacts.shrink(store.path(steps[0])) if steps else None
    return None if shrink is None else Projection(projector=repair.projector, shrink=shrink)


def _effective(candidate: grid.Candidate, store: Store) -> EffectiveRecord | None:
    """What a merge that is not exact amounts to."""
    steps = _merging(candidate)
    return artifacts.effective(store.path(steps[0])) if steps else None


def _harness(store: Store) -> list[tuple[dict[str, Any], Path]]:
    """What lm-evaluation-harness found: manifests and scores, the newest last."""
    found = []
    for path in store.root.glob(f"lm_eval/*/{MANIFEST}"):
        set_aside = path.parent.suffix  # or not finished
        if not set_aside and integrity.damage(path.parent, path) is None:
            found.append((json.loads(path.read_text(encoding="utf-8")), path.parent / artifacts.SCORES))
    return sorted(found, key=lambda its: str(its[0]["created"]))


def scores_of(
    x: plan.Experiment, candidate: grid.Candidate, found: Sequence[tuple[dict[str, Any], Path]]
) -> list[Path]:
    """Those of one row. A row with a safety prompt shares the fine-tuned adapter: what was asked without is not its."""
    adapter = candidate.adapter.key if candidate.adapter else None
    own = candidate.point.system_prompt
    prompts = {own} if own else {x.config.model.system_prompt, None}  # None: without a chat template
    return [
        path
        for made, path in found
        if (made["inputs"]["model"], made["inputs"].get("adapter")) == (x.aligned.key, adapter)
        and made["settings"]["system_prompt"] in prompts
    ]


def final_candidates(x: plan.Experiment, store: Store) -> list[grid.Candidate]:
    """All candidates, each with the halves of the prompts that it answers in the end."""
    if x.config.selection.grid != "dev":
        return grid.candidates(x, store)
    return grid.candidates(x, store, selected_labels(x, store))


def selected_labels(x: plan.Experiment, store: Store) -> frozenset[str]:
    """The labels of the points selected on the development half, one per method; its verdicts must be in the store."""
    spec = record(x, store, store.root, grid.candidates(x, store), selecting=True)
    points, _ = choose_points(load_entry(spec, store.root), "dev", x.config.selection.keep_gain)
    return frozenset(point.label for point in points.values())


def record(
    x: plan.Experiment,
    store: Store,
    folder: Path,
    candidates: Sequence[grid.Candidate],
    *,
    selecting: bool = False,
) -> EntryRecord:
    """The entry of run.json without its checks; paths are relative to `folder`.

    selecting: without what is not selected by.

    Raises:
        UserError: completions, verdicts or measures are missing.
    """
    config = x.config
    lacking = [step.name for step in needed(candidates, selecting=selecting) if not store.has(step)]
    if lacking:
        raise UserError(
            f"nothing to report yet: {len(lacking)} results are missing ({lacking[0]}, ...); "
            "include merge, generate and judge"
        )

    def at(step: plan.Source, name: str) -> str:
        return os.path.relpath(store.path(step) / name, folder)

    found = _harness(store)
    others = {"align": x.alignment, "guard": x.guard}
    trained = {**x.trainings, **{role: step for role, step in others.items() if step}}
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
                rule=c.point.selection.rule,
                merged_modules=len(c.selected),
                modules=c.modules,
                selected=list(c.selected),
                projection=_projection(c, store),
                adapter=at(c.adapter, "") if c.adapter is not None else None,
                safety=c.point.safety,
                effective=_effective(c, store),
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
                measures={
                    benchmark: [at(step, artifacts.MEASURES) for step in halves.values()]
                    for benchmark, halves in c.measures.items()
                    if halves and not selecting
                },
                harness=[os.path.relpath(path, folder) for path in scores_of(x, c, found)],
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
    """The judge on the held-out pairs of harmful prompts, as a harm benchmark's are; None where it has not read them."""
    step = answers.verdicts(x, x.heldout, judge)
    if not store.has(step):
        return None
    pairs = {row.id: row for row in artifacts.labelled_pairs(store.path(x.heldout)) if not row.benign}
    return confusion(
        list(pairs.values()), [row for row in artifacts.verdicts(store.path(step)) if row.id in pairs]
    )


def _usage(
    x: plan.Experiment, store: Store, candidates: Iterable[grid.Candidate], judge: str
) -> Usage | None:
    """What a server judge was asked and cost, over the distinct files of verdicts that it wrote."""
    if x.config.judge[judge].kind != "api":
        return None
    steps = [step for c in candidates for step in c.judged_by(judge)]
    steps.append(answers.verdicts(x, x.heldout, judge))
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
        *(answers.verdicts(x, x.heldout, judge) for judge in x.config.judge),
    ]
    present = {s.key: s for s in read if s is not None and (isinstance(s, External) or store.has(s))}
    inputs: dict[str, plan.Source] = {f"{i:04}": present[key] for i, key in enumerate(sorted(present))}
    # Checks take seconds: whatever changes in their code makes them anew.
    its = Check([c.point.label for c in candidates], sources(*CHECKED_BY))
    whole = Whole(x.config.model_dump(mode="json", by_alias=True), str(store.root))
    return Step("check", "checks of the run", its.keyed(), inputs, whole)


def entry(
    x: plan.Experiment, store: Store, folder: Path, candidates: Sequence[grid.Candidate]
) -> EntryRecord:
    """The entry of run.json with the checks of its artifacts; paths are relative to `folder`."""
    found = record(x, store, folder, candidates)
    found.checks = artifacts.checks(store.path(checks_step(x, store, candidates)))
    return found
