"""`+dry_run=true`: the stages of a run, what of them is cached, what would be fetched, and what each needs."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline import again, answers, budget, grid, needs, plan, run_record
from pipeline.budget import Budget
from pipeline.precision import LARGE, automatic
from pipeline.preflight import hub_models, missing
from pipeline.revisions import data_sets
from pipeline.store import Step, Store
from safemerge.errors import UserError


def _cost(x: plan.Experiment, stage: str, budget: Budget | None) -> tuple[str, str]:
    """(memory, time) of a stage: memory by the model; time measured on 2 CPU cores, above a billion parameters a guess."""
    light = {
        "prepare": "data",
        "similarity": "read the weights once",
        "merge": "seconds",
        "report": "~10 s",
    }
    if budget is not None:
        time = {"prepare": "download"}
        time |= {name: f"~{hours:.1f} h in all (guess)" for name, hours in budget.hours.items()}
        return _memory(x, stage), time.get(stage, light.get(stage, ""))
    small = x.config.model.parameters < 1e7
    time = {
        "prepare": "~30 s" if small else "~4 min",
        "finetune": "~10 s each" if small else "~1-2 min each",
        "generate": "~30 s" if small else "~5 min",
        "judge": "~30 s" if small else "~1 min",
    }
    return _memory(x, stage), time.get(stage, light.get(stage, ""))


def _memory(x: plan.Experiment, stage: str) -> str:
    """What a stage needs at least; of an engine on a GPU also what all its sequences at once take."""
    found = needs.needs(x)
    if stage == "prepare" and x.alignment is not None:
        stage = "finetune"  # the alignment is one
    if stage not in found:
        return "1 GiB"
    guess = "" if needs.shape_of(x)[1] else ", shape guessed"
    if stage in ("merge", "similarity") or needs.device(x) == "cpu":
        most = "at most " if stage == "finetune" else ""  # rows of max_length, which few are
        return f"{most}{max(found[stage].gib, 0.1):.1f} GiB (model{guess})"
    whole = needs.engines(x).get(stage)
    wide = f"; {whole.gib:.0f} for {x.config.generation.max_num_seqs} replies at once" if whole else ""
    return f"{found[stage].gib:.0f} GiB on each GPU (model{guess}){wide}"


def _count(store: Store, steps: Sequence[Step]) -> str:
    distinct = {s.key: s for s in steps}.values()
    return f"{sum(store.has(s) for s in distinct)} of {len(distinct)}"


def steps_by_stage(x: plan.Experiment, store: Store) -> dict[str, list[Step]]:
    """All steps known now; merging and what follows is only known once the similarity table is there."""
    first = [
        *x.prepared,
        x.base,
        *([x.alignment] if x.alignment else []),
        *([x.guard] if x.guard else []),
        x.aligned,
    ]
    stages: dict[str, list[Step]] = {
        "prepare": [*first, *x.judge_models.values(), *x.probes.values()],
        "finetune": x.trained,
        "similarity": [x.similarity] if any(p.selection.rule != "none" for p in x.points) else [],
    }
    try:
        candidates = grid.candidates(x, store)
    except UserError:
        return stages
    stages["merge"] = [step for _, steps in again.layers(c.adapter for c in candidates) for step in steps]
    stages["generate"] = [
        step for c in candidates for step in (*c.replies, *([c.parity] if c.parity else []))
    ]
    tuned = [step for name in x.config.judge if (step := answers.threshold(x, name))]
    judged = [step for c in candidates for step in (*c.judged_by(), *c.likelihoods)]
    stages["judge"] = [*tuned, *judged]
    stages["report"] = [run_record.checks_step(x, store, candidates)]
    return stages


def show(x: plan.Experiment, store: Store, console: Console, moving: Sequence[str] = ()) -> None:
    """Print the plan; `moving` are the revisions that stand for no known commit."""
    config, known = x.config, steps_by_stage(x, store)
    large = config.model.parameters > LARGE
    spent = budget.budget([(x, budget.work(x))]) if large else None
    table = Table(title=plan.run_name(config), title_justify="left")
    for column in ("stage", "what", "cached", "memory", "time (estimate)"):
        table.add_column(column)
    merging = [p for p in x.points if p.repair.kind not in ("keep", "drop")]
    for stage in config.stages:
        steps = known.get(stage)
        if steps is not None:
            names = list(dict.fromkeys(s.name for s in steps))
            what = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
            cached = _count(store, steps)
            if stage == "report":
                what = f"{what}, tables, figures"
        else:
            counts = {"merge": f"up to {len(merging)} adapters, by what tau selects"}
            per = " x ".join([f"up to {len(x.points)} models", ", ".join(config.benchmark)])
            counts |= {"generate": per, "judge": f"{', '.join(config.judge)} on {per}"}
            what, cached = (
                counts.get(stage, "checks of the run, tables, figures"),
                "known after similarity",
            )
        table.add_row(stage, what or "nothing", cached, *_cost(x, stage, spent))
    console.print(table)
    if spent is not None:
        console.print(escape(f"in all, with nothing cached: {budget.line(spent)}"))
    reason = automatic(config.model.parameters)[1]
    console.print(
        f"precision: training {config.train.dtype}, generation {config.generation.dtype} (here: {reason})"
    )
    for role, member in (("base", config.model.base), ("aligned", config.model.aligned)):
        where = f"{member.id} @ {member.revision}" if member.kind == "hub" else member.kind
        console.print(f"{role:<8} {where}")
    for name, judge in config.judge.items():
        console.print(
            f"judge    {name}"
            + (f"  {judge.id} @ {judge.revision}" if judge.kind == "hub" else f"  ({judge.kind})")
        )
    for name, place in data_sets(config).items():
        console.print(f"data     {name}  {place.id} @ {place.revision}")
    for line in moving:
        console.print(f"[yellow]revision not resolved:[/] {escape(line)}")
    fetch = hub_models(x, store)
    for name, revision, size, gated in fetch:
        console.print(
            f"download {name} @ {str(revision)[:8]}  {size:.1f} GB{'  (gated: HF_TOKEN)' if gated else ''}"
        )
    console.print(f"download in all: {sum(size for _, _, size, _ in fetch):.1f} GB")
    for lack in missing(x, store):
        console.print(f"[yellow]missing here:[/] {escape(lack)}")
