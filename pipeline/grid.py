"""From the similarity table to the candidates: which modules each point selects, and the steps that answer and judge.

Two points that select the same modules become one adapter.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.plan import Experiment, Source
from pipeline.store import Step, Store
from safemerge.errors import UserError
from safemerge.selection import Point, resolve_tau, select
from safemerge.table import live_rhos, read_table

HALVES = ("dev", "test")
ENDS = ("aligned", "finetuned")  # what fine-tuning gained and lost lies between them


@dataclass(frozen=True)
class Candidate:
    """One row of the results: a method at one setting, its adapter (None: the aligned model itself) and what it merged."""

    point: Point
    tau: float | None
    selected: tuple[str, ...]
    modules: int
    adapter: Source | None
    halves: tuple[str, ...] = HALVES  # of the prompts that it answers


def candidates(experiment: Experiment, store: Store, chosen: frozenset[str] | None = None) -> list[Candidate]:
    """The points of the grid with their adapters. Needs the similarity table in the store, if any point merges.

    With `selection.grid: dev` each half is answered only by those it is read of: the development half by the points of a
    grid and the two ends that they are measured against, the test half by what is reported on it.

    chosen: the labels of the points of a grid that answer the test half too, once they are selected.
    """
    found = _candidates(experiment, store)
    if experiment.config.selection.grid == "all":
        return found
    alike = Counter((c.point.method, c.point.combine, _draw(c)) for c in found)
    halves = {False: ("dev",), True: HALVES}
    return [
        replace(c, halves=halves[c.point.label in (chosen or ())])
        if alike[c.point.method, c.point.combine, _draw(c)] > 1
        else c
        if c.point.method in ENDS
        else replace(c, halves=("test",))
        for c in found
    ]


def _draw(candidate: Candidate) -> int | None:
    selection = candidate.point.selection
    return selection.seed if selection.rule == "random" else None


def _candidates(experiment: Experiment, store: Store) -> list[Candidate]:
    rows = (
        read_table(store.path(experiment.similarity) / "similarity.csv")
        if store.has(experiment.similarity)
        else None
    )
    found = []
    for point in experiment.points:
        if point.adapter == "none" or point.repair.kind == "drop":
            found.append(Candidate(point, None, (), len(rows) if rows else 0, None))
            continue
        adapter: Source = experiment.adapters[point.adapter]
        if point.repair.kind == "keep":
            found.append(Candidate(point, None, (), len(rows) if rows else 0, adapter))
            continue
        if rows is None:
            raise UserError(
                "the similarity table is missing: include the similarity stage, as in stages=[similarity,merge,...]"
            )
        selected = select(rows, point.selection)
        tau = None if point.tau is None else resolve_tau(point.tau, live_rhos(rows))
        if selected:
            inputs: dict[str, Source] = {"task": adapter}
            if point.repair.kind in ("blend", "add"):
                inputs["safety"] = experiment.adapters["safety"]
            if point.repair.kind == "project":
                inputs |= {"base": experiment.base, "aligned": experiment.aligned}
            settings = {"selected": list(selected), "repair": asdict(point.repair)}
            adapter = Step("merge", f"{point.label}", settings, inputs)
        found.append(Candidate(point, tau, selected, len(rows), adapter))
    return found


def replies(experiment: Experiment, candidate: Candidate, benchmark: str) -> list[Step]:
    """A candidate's completions on one benchmark, a step per half of the prompts."""
    halves = halves_of(experiment, candidate, benchmark)
    return [completions(experiment, candidate.adapter, benchmark, half) for half in halves]


def halves_of(experiment: Experiment, candidate: Candidate, benchmark: str) -> tuple[str, ...]:
    """The halves of a benchmark's prompts that a candidate answers; selection does not look at over-refusal."""
    config = experiment.config
    if config.selection.grid == "dev" and config.benchmark[benchmark].role == "over_refusal":
        return tuple(half for half in candidate.halves if half == "test")
    return candidate.halves


def completions(experiment: Experiment, adapter: Source | None, benchmark: str, half: str) -> Step:
    """The step that generates one half of a benchmark's completions with one adapter."""
    generation = experiment.config.generation
    limits = generation.max_tokens
    decoding: dict[str, Any] = {
        "backend": generation.backend,
        "dtype": generation.dtype,
        "temperature": generation.temperature,
        "max_tokens": limits.get(benchmark, limits["default"]),
        "half": half,
        "system_prompt": experiment.config.model.system_prompt,
    }
    if generation.temperature > 0:
        decoding |= {"top_p": generation.top_p, "seed": generation.seed}
    inputs: dict[str, Source] = {"model": experiment.aligned, "items": experiment.items[benchmark]}
    if adapter is not None:
        inputs["adapter"] = adapter
    return Step("generate", benchmark, decoding, inputs, _engine_speed(experiment))


def parity(experiment: Experiment, candidate: Candidate) -> Step:
    """The step that compares the engine's completions with transformers, for one adapter: on the half answered first."""
    adapter, half = candidate.adapter, candidate.halves[0]
    replies = {
        f"replies/{b}": completions(experiment, adapter, b, half)
        for b in experiment.config.benchmark
        if half in halves_of(experiment, candidate, b)
    }
    settings = {
        "dtype": experiment.config.generation.dtype,
        "system_prompt": experiment.config.model.system_prompt,
        "prompts_per_benchmark": 1,
    }
    inputs: dict[str, Source] = {"model": experiment.aligned, **replies}
    if adapter is not None:
        inputs["adapter"] = adapter
    return Step("parity", adapter.name if adapter else "aligned", settings, inputs)


def _engine_speed(experiment: Experiment) -> dict[str, Any]:
    keys = {"max_num_seqs", "max_loras", "gpu_memory_utilization", "tensor_parallel_size"}
    return experiment.config.generation.model_dump(include=keys)


def verdicts(experiment: Experiment, replies: Step, name: str) -> Step:
    """The step in which one judge reads one file of completions (or the calibration pairs)."""
    judge = experiment.config.judge[name]
    keep = {"kind", "id", "revision", "threshold", "max_tokens"} if judge.kind != "phrases" else {"kind"}
    settings = {"target": judge.target_, **judge.model_dump(include=keep)}
    inputs: dict[str, Source] = {"replies": replies}
    if "items" in replies.inputs:
        inputs["items"] = replies.inputs["items"]
    if judge.kind == "probe":  # its threshold is part of the head
        settings = {"kind": "probe"}
        inputs |= {"model": experiment.base, "head": experiment.probes[name]}
        return Step("judge", f"{name} on {replies.name}", settings, inputs)
    if judge.calibrated and experiment.calibration is not None:
        inputs["calibration"] = experiment.calibration
    if judge.kind == "trained":
        settings["system_prompt"] = experiment.config.model.system_prompt
    if name in experiment.judge_models:
        inputs["model"] = experiment.judge_models[name]
    if judge.kind == "api":  # where the server is and how hard it is asked does not change what it says
        asked = {"base_url", "api_key_env", "attempts", "parallel", "timeout_s"}
        asking = {**judge.model_dump(include=asked), "price": list(judge.price)}
        return Step("judge", f"{name} on {replies.name}", settings, inputs, asking)
    if judge.kind != "phrases":
        settings |= {
            "backend": experiment.config.generation.backend,
            "dtype": experiment.config.generation.dtype,
        }
    return Step("judge", f"{name} on {replies.name}", settings, inputs, _engine_speed(experiment))


def judges_of(experiment: Experiment, benchmark: str) -> list[str]:
    """Which judges read a benchmark: all for harm, the phrase judge for over-refusal, none for utility."""
    role = experiment.config.benchmark[benchmark].role
    if role == "utility":
        return []
    if role == "harm":
        return list(experiment.config.judge)
    return [name for name, judge in experiment.config.judge.items() if judge.kind == "phrases"]
