"""Were the LoRAs trained on the answers, and on nothing that they are then tested on?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from data import disjoint
from data.chat import example_ids
from evaluation.run_file import Check
from pipeline import artifacts, grid, plan
from pipeline.artifacts import LabelRow
from pipeline.checks.rule import blind_to, outcome
from pipeline.stages.finetune import load_pairs
from pipeline.store import External, Store
from safemerge.errors import UserError


@blind_to(
    "Rows after the first batch of each training, and whether the training rows are what one should train on."
)
def labels(x: plan.Experiment, store: Store, candidates: list[grid.Candidate]) -> Check:
    """Each row of every training's first batch is a training row, with the loss on its answer and EOS and nowhere else."""
    failed, shown, left_out = [], 0, []
    for step in [*x.trained, *(s for s in (x.alignment, x.guard) if s)]:
        found = artifacts.labels(store.path(step))
        inputs = {role: store.path(source) for role, source in step.inputs.items()}
        tokenizer, pairs = artifacts.tokenizer(inputs["model"]), load_pairs(inputs)
        if found.too_long:
            left_out.append(f"{step.name}: {found.too_long} of {found.rows + found.too_long}")
        if not found.first_batch:
            failed.append(f"{step.name}: no row was recorded")
        for row in found.first_batch:
            shown += 1
            problem = misread(row, tokenizer, pairs, step.settings["system_prompt"])
            if problem:
                failed.append(f"{step.name}: {problem}")
    if not shown and not failed:
        detail = "not known: every LoRA of this run was trained elsewhere"
        return Check(name="training labels", status="warn", detail=detail)
    dropped = f"; left out as too long: {', '.join(left_out)}" if left_out else ""
    return outcome(
        "training labels",
        failed,
        f"{shown} decoded rows are training rows: in the loss the answer with its EOS, none of the prompt{dropped}",
    )


def misread(row: LabelRow, tokenizer: Any, pairs: Sequence[tuple[str, str]], system: str | None) -> str:
    """What is wrong with a row of a first batch; nothing, if one of the (prompt, answer) pairs decodes to it.

    The pair is encoded anew and split where its answer begins; the row must decode to the same two texts.
    """
    text = row.prompt + row.labels
    problem = f"no training row reads {_shortened(text)}"
    # The pairs whose texts are in the row come first, so that a sound row costs one or two encodings and not thousands.
    for prompt, answer in sorted(pairs, key=lambda pair: (pair[0] not in text) + (pair[1] not in text)):
        try:
            encoded = example_ids(tokenizer, prompt, answer, system=system)
        except UserError as error:
            return str(error)
        start = encoded.completion_mask.count(0)
        truth = LabelRow(
            tokenizer.decode(encoded.input_ids[:start]), tokenizer.decode(encoded.input_ids[start:])
        )
        if truth == row:
            return ""
        if truth.prompt + truth.labels == text or truth.prompt == row.prompt:
            problem = (
                f"the loss covers {_shortened(row.labels)} where the answer is {_shortened(truth.labels)}"
            )
    return problem


def _shortened(text: str, size: int = 40) -> str:
    return repr(text if len(text) <= size else f"{text[: size // 2]}…{text[-size // 2 :]}")


@blind_to(
    "The same request in other words or another language, and whatever the models had read before they came to us."
)
def disjointness(x: plan.Experiment, store: Store, candidates: list[grid.Candidate]) -> Check:
    """No test item is among the training rows, by id or by normalised text, nor nearly (`data.disjoint`)."""
    same, near, unknown = [], [], []
    items = {name: artifacts.items(store.path(step)) for name, step in x.items.items()}
    for role, source in x.adapters.items():
        if isinstance(source, External) and x.needs(role):
            unknown.append(f"not known: {source.name} was trained elsewhere")
    for role, step in x.training_rows.items():
        # The judge may know a prompt; what it must not know are the held-out pairs. Rows that an adapter from outside
        # replaces were not trained on, unless another LoRA of ours was.
        replaced = isinstance(x.adapters.get(role), External) and not x.needs(f"{role}_apart")
        if role == "guard" or replaced:
            continue
        rows = artifacts.examples(store.path(step))
        for name, its in items.items():
            found = disjoint.overlaps(rows, its)
            close = [leak for leak in found if leak.by == "near"]
            if len(found) > len(close):
                same.append(f"{len(found) - len(close)} of {name} in {role}")
            if close:
                pairs = ", ".join(f"{leak.item_id} and {leak.train_id}" for leak in close[:2])
                more = ", ..." if len(close) > 2 else ""
                near.append(f"{len(close)} of {name} nearly in {role} ({pairs}{more})")
    status: Literal["warn", "fail"] = "fail" if same else "warn"
    passed = f"{len(x.training_rows)} training sets against {len(items)} benchmarks"
    return outcome("train and test are disjoint", [*same, *near, *unknown], passed, status=status)
