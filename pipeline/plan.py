"""From a config to the steps of the experiment: what is made from what, under which key. Imports no torch.

Everything up to the similarity table is known at once. Which modules a threshold selects is known only with the table,
so `points` is called again after it exists; two grid points that select the same modules become one adapter.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from pipeline import steps
from pipeline.config import bind
from pipeline.settings import Config, HubMember
from pipeline.store import External, Step, Store, digest
from safemerge.errors import UserError
from safemerge.selection import Point, resolve_tau, select
from safemerge.table import live_rhos, read_table

Source = Step | External
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


@dataclass
class Experiment:
    """The steps of one (model, task, seed)."""

    config: Config
    base: Step
    aligned: Step
    task_rows: Step
    training_rows: dict[str, Step] = field(default_factory=dict)
    adapters: dict[str, Source] = field(default_factory=dict)
    alignment: Step | None = None
    guard: Step | None = None
    items: dict[str, Step] = field(default_factory=dict)
    calibration: Step | None = None
    judge_models: dict[str, Step] = field(default_factory=dict)
    probes: dict[str, Step] = field(default_factory=dict)

    @cached_property
    def points(self) -> list[Point]:
        found: list[Point] = []
        for name, node in self.config.method.items():
            function, knobs = bind(node, f"method.{name}")
            found += function(**knobs)
        return found

    @cached_property
    def similarity(self) -> Step:
        inputs = {"base": self.base, "aligned": self.aligned, "adapter": self.adapters["task"]}
        return Step("similarity", "similarity", {}, inputs)

    def needs(self, role: str) -> bool:
        """Whether any selected method needs this adapter (task, safety, safeinstruct)."""
        if role == "safety":
            return any(p.repair.kind in ("blend", "add") for p in self.points)
        return any(p.adapter == role for p in self.points)

    @property
    def prepared(self) -> list[Step]:
        """The data sets: light steps that need no model."""
        rows = [*self.training_rows.values(), *self.items.values()]
        return [*rows, *([self.calibration] if self.calibration else [])]

    @property
    def trained(self) -> list[Step]:
        """The adapters to be trained here, from the aligned model."""
        wanted: list[Source | None] = [s for r, s in self.adapters.items() if self.needs(r)]
        return [s for s in wanted if isinstance(s, Step)]


def build(config: Config) -> Experiment:
    """The steps of the experiment, without looking at what already exists."""
    train = config.train
    base = steps.member("base", config.model.base)
    part = None
    if config.model.aligned.kind == "tuned" and train.align is not None:
        # The safety LoRA must not see the rows that made the model safe in the first place: two disjoint parts.
        part = "safety"
        rows = {"safety": steps.training_rows(config, "alignment", "safety", train.align.limit, "align")}
        if train.align.helpful_limit:
            rows["helpful"] = steps.training_rows(
                config, "alignment, helpful", "helpful", train.align.helpful_limit
            )
        align = steps.lora(config, "align", base, rows, train.align, seed=0)
        aligned = Step("prepare", "aligned model", {"what": "merged"}, {"model": base, "adapter": align})
        training = {f"align/{k}": v for k, v in rows.items()}
    else:
        aligned, training = steps.member("aligned", config.model.aligned), {}

    task_rows = steps.training_rows(config, config.task.name, config.task.dataset, train.task.limit)
    safety_rows = steps.training_rows(config, "the safety LoRA", "safety", train.safety.limit, part)
    mixed = {
        "task": steps.training_rows(config, "SafeInstruct", config.task.dataset, train.safeinstruct.limit),
        "safety": steps.training_rows(
            config, "SafeInstruct, safety", "safety", train.safeinstruct.safety_limit, part
        ),
    }
    experiment = Experiment(config, base, aligned, task_rows)
    made_from = aligned.inputs.get("adapter")
    experiment.alignment = made_from if isinstance(made_from, Step) else None
    experiment.training_rows = {**training, "task": task_rows}
    adapters = experiment.adapters
    adapters["task"] = steps.external("task_adapter", config.task_adapter) or steps.lora(
        config, "task", aligned, {"task": task_rows}, train.task, config.seed
    )
    adapters["safety"] = steps.external("safety_adapter", config.safety_adapter) or steps.lora(
        config, "safety", aligned, {"safety": safety_rows}, train.safety, config.seed
    )
    adapters["safeinstruct"] = steps.lora(
        config, "safeinstruct", aligned, mixed, train.safeinstruct, config.seed
    )
    if experiment.needs("safety") and config.safety_adapter is None:
        experiment.training_rows["safety"] = safety_rows
    if experiment.needs("safeinstruct"):
        experiment.training_rows |= {f"safeinstruct/{k}": v for k, v in mixed.items()}

    for name, benchmark in config.benchmark.items():
        experiment.items[name] = steps.items(config, benchmark.dataset)
    experiment.calibration = steps.labelled_pairs("calibration")
    if any(j.kind == "trained" for j in config.judge.values()) and train.guard is not None:
        guard_rows = steps.labelled_pairs("train", train.guard.limit)
        experiment.training_rows["guard"] = guard_rows
        experiment.guard = steps.lora(config, "guard", base, {"guard": guard_rows}, train.guard, seed=0)
        # Folded into its model: one model that only judges needs no LoRA kernels, which are slow on a CPU.
        merged = Step(
            "prepare", "judge model", {"what": "merged"}, {"model": base, "adapter": experiment.guard}
        )
        experiment.judge_models |= {n: merged for n, j in config.judge.items() if j.kind == "trained"}
    for name, judge in config.judge.items():
        if judge.kind == "hub":
            member = HubMember.model_validate(judge.model_dump(include={"kind", "id", "revision"}))
            experiment.judge_models[name] = steps.member(f"{name} judge", member)
        if judge.kind == "probe":
            pairs = experiment.training_rows.setdefault("guard", steps.labelled_pairs("train"))
            experiment.probes[name] = steps.probe(config, name, judge, base, pairs, experiment.calibration)
    return experiment


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


def settings(config: Config, *, seeds: bool = False) -> str:
    """Hash of all that makes two runs different experiments; with `seeds`, all but the seed."""
    left_out = {"stages", "dry_run", "store", "runs", "tracking"} | ({"seed"} if seeds else set())
    return digest(config.model_dump(exclude=left_out, by_alias=True))


def run_name(config: Config, *, seeds: bool = False) -> str:
    """Name of the run's folder: readable, and distinct for distinct experiments."""
    which = "seeds" if seeds else f"seed{config.seed}"
    name = f"{config.model.name}-{config.task.name}-{config.data.source}-{which}"
    return f"{name}-{settings(config, seeds=seeds)[:6]}"
