"""The second fine-tuning of an adapter that may have been repaired: its rows, its step, and the order of what it needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipeline import steps
from pipeline.plan import Experiment, Source
from pipeline.settings import Training
from pipeline.store import Step
from safemerge.selection import Again

#: Between the seeds of the first and the second fine-tuning, so that the order of the rows is another one.
SECOND = 2_000_003


def tuned(x: Experiment, adapter: Source, again: Again) -> Step:
    """The adapter, fine-tuned further from the aligned model on which it lies; all else as the first fine-tuning had it.

    That the training starts from an adapter is an input of the step, so the keys of other trainings stay as they are.
    """
    args: dict[str, Any] = {**x.config.train.task.args}
    for name, value in (("learning_rate", again.learning_rate), ("num_train_epochs", again.epochs)):
        if value is not None:
            args[name] = value
    section = Training(limit=again.limit, args=args)
    inputs = {"adapter": adapter, "again": steps.second_rows(x.config, again)}
    return steps.lora(x.config, "again", x.aligned, inputs, section, x.config.seed + SECOND)


def layers(adapters: Iterable[Source | None]) -> list[tuple[str, list[Step]]]:
    """(title, steps): what is merged or fine-tuned after rho is known, in the order in which it can be made."""
    depth: dict[str, tuple[int, Step]] = {}

    def visit(source: Source | None) -> int:
        if not isinstance(source, Step) or not _late(source):
            return -1
        if source.key not in depth:
            depth[source.key] = 1 + max(map(visit, source.inputs.values()), default=-1), source
        return depth[source.key][0]

    for adapter in adapters:
        visit(adapter)
    found: dict[tuple[int, str], list[Step]] = {}
    for level, step in depth.values():
        found.setdefault((level, step.stage), []).append(step)
    titles = {"merge": "merging", "finetune": "second fine-tuning"}
    return [(titles[stage], its) for (_, stage), its in sorted(found.items(), key=lambda pair: pair[0][0])]


def _late(step: Step) -> bool:
    """Whether the step is one of those after rho: a merge, or a training that starts from an adapter."""
    return step.stage == "merge" or (step.stage == "finetune" and "adapter" in step.inputs)
