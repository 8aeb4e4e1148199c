"""From a config to the steps of the experiment: what is made from what, under which key. Imports no torch.

Everything up to the similarity table is known at once; what comes after it is in `pipeline.grid`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pipeline import steps
from pipeline.config import points
from pipeline.settings import Config, HubMember
from pipeline.stage_settings import Similarity
from pipeline.store import External, Step, digest
from safemerge.errors import UserError
from safemerge.selection import Point

Source = Step | External
APART = 1_000_003  # between the seeds of two roles that do not share theirs


@dataclass
class Experiment:
    """The steps of one (model, task, seed)."""

    config: Config
    base: Step
    aligned: Step
    tuning: Step  # labelled pairs that set a judge's threshold
    heldout: Step  # labelled pairs that measure the judges
    training_rows: dict[str, Step] = field(default_factory=dict)
    adapters: dict[str, Source] = field(default_factory=dict)
    alignment: Step | None = None
    guard: Step | None = None
    items: dict[str, Step] = field(default_factory=dict)
    judge_models: dict[str, Step] = field(default_factory=dict)
    probes: dict[str, Step] = field(default_factory=dict)

    @cached_property
    def methods(self) -> dict[str, list[Point]]:
        """The points of every method, by its name in the config."""
        return {name: points(name, method) for name, method in self.config.method.items()}

    @property
    def points(self) -> list[Point]:
        return [point for its in self.methods.values() for point in its]

    @cached_property
    def similarity(self) -> Step:
        inputs = {"base": self.base, "aligned": self.aligned, "adapter": self.adapters["task"]}
        return Step("similarity", "similarity", Similarity().keyed(), inputs)

    def needs(self, role: str) -> bool:
        """Whether any selected method needs this adapter (task, safety, safety_apart, safeinstruct)."""
        return any(role == p.adapter or (p.needs_safety and role == p.safety) for p in self.points)

    @property
    def prepared(self) -> list[Step]:
        """The data sets: light steps that need no model."""
        return [*self.training_rows.values(), *self.items.values(), self.tuning, self.heldout]

    @property
    def trainings(self) -> dict[str, Step]:
        """The adapters to be trained here from the aligned model, by role."""
        return {r: s for r, s in self.adapters.items() if self.needs(r) and isinstance(s, Step)}

    @property
    def trained(self) -> list[Step]:
        """The adapters to be trained here, from the aligned model."""
        return list(self.trainings.values())


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
        aligned = steps.merged("aligned model", base, align)
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
    tuning, heldout = steps.labelled_pairs("tuning"), steps.labelled_pairs("heldout")
    experiment = Experiment(config, base, aligned, tuning, heldout)
    if config.selection.grid == "none":
        _nothing_to_select(experiment.methods)
    made_from = aligned.inputs.get("adapter")
    experiment.alignment = made_from if isinstance(made_from, Step) else None
    experiment.training_rows = {**training, "task": task_rows}
    adapters = experiment.adapters
    adapters["task"] = steps.external("task_adapter", config.task_adapter) or steps.lora(
        config, "task", aligned, {"task": task_rows}, train.task, config.seed
    )
    adapters["safety"] = steps.external("safety_adapter", config.safety_adapter) or steps.lora(
        config, "safety", aligned, {"safety": safety_rows}, train.safety, safety_seed(config)
    )
    if experiment.needs("safety_apart"):
        apart = config.seed + APART
        adapters["safety_apart"] = steps.lora(
            config, "safety", aligned, {"safety": safety_rows}, train.safety, apart
        )
    adapters["safeinstruct"] = steps.lora(
        config, "safeinstruct", aligned, mixed, train.safeinstruct, config.seed
    )
    if (experiment.needs("safety") and config.safety_adapter is None) or experiment.needs("safety_apart"):
        experiment.training_rows["safety"] = safety_rows
    if experiment.needs("safeinstruct"):
        experiment.training_rows |= {f"safeinstruct/{k}": v for k, v in mixed.items()}

    for again in dict.fromkeys(point.again for point in experiment.points if point.again):
        name = f"again/{again.dataset}" + (f" {again.limit}" if again.limit else "")
        experiment.training_rows[name] = steps.second_rows(config, again)
    for name, benchmark in config.benchmark.items():
        experiment.items[name] = steps.items(config, benchmark.dataset)
    if any(j.kind == "trained" for j in config.judge.values()) and train.guard is not None:
        guard_rows = steps.labelled_pairs("train", train.guard.limit)
        experiment.training_rows["guard"] = guard_rows
        experiment.guard = steps.lora(config, "guard", base, {"guard": guard_rows}, train.guard, seed=0)
        # Folded into its model: one model that only judges needs no LoRA kernels, which are slow on a CPU.
        merged = steps.merged("judge model", base, experiment.guard)
        experiment.judge_models |= {n: merged for n, j in config.judge.items() if j.kind == "trained"}
    for name, judge in config.judge.items():
        if judge.kind == "hub":
            member = HubMember.model_validate(judge.model_dump(include={"kind", "id", "revision"}))
            experiment.judge_models[name] = steps.member(f"{name} judge", member)
        if judge.kind == "probe":
            pairs = experiment.training_rows.setdefault("guard", steps.labelled_pairs("train"))
            experiment.probes[name] = steps.probe(config, name, judge, base, pairs, tuning)
    return experiment


def _nothing_to_select(methods: dict[str, list[Point]]) -> None:
    """UserError if a row of the tables would have several points to be selected from."""
    for name, its in methods.items():
        draws = Counter(p.selection.seed if p.selection.rule == "random" else None for p in its)
        if any(count > 1 for count in draws.values()):
            raise UserError(
                f"selection.grid=none, and method.{name} has {len(its)} points to select from "
                f"({', '.join(p.label for p in its[:3])}, ...): give it one, or use selection.grid=dev"
            )


def safety_seed(config: Config) -> int:
    """The seed of the safety LoRA: the task LoRA's own, or another one for each of them."""
    return config.seed + (APART if config.train.role_seeds == "apart" else 0)


def settings(config: Config, *, seeds: bool = False) -> str:
    """Hash of all that makes two runs different experiments; with `seeds`, all but the seed."""
    left_out: dict[str, Any] = dict.fromkeys(
        ["stages", "dry_run", "store", "locks", "runs", "tracking"], True
    )
    left_out |= {"generation": {"servers"}, "judge": {"__all__": {"servers", "shape"}}, "model": {"shape"}}
    left_out |= {"method": {"__all__": {"display"}}, **({"seed": True} if seeds else {})}
    hashed = config.model_dump(exclude=left_out, by_alias=True)
    for benchmark in hashed["benchmark"].values():
        # As before there was such a setting: finished runs keep their names.
        if benchmark["max_tokens"] is None:
            del benchmark["max_tokens"]
    return digest(hashed)


def run_name(config: Config, *, seeds: bool = False) -> str:
    """Name of the run's folder: readable, and distinct for distinct experiments."""
    which = "seeds" if seeds else f"seed{config.seed}"
    name = f"{config.model.name}-{config.task.name}-{config.data.source}-{which}"
    return f"{name}-{settings(config, seeds=seeds)[:6]}"
