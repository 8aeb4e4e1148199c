"""Faults that silently corrupt the experiment, one by one, each planted in an otherwise sound run.

`tests/unit/test_checks.py` holds the checks to what is said here; `python -m tests.trust` shows it on docs/trust.md.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from data.schema import Example, Word
from evaluation.run_file import Check
from pipeline import answers, artifacts
from pipeline.artifacts import LabelRow
from pipeline.store import MANIFEST, External, Step
from tests.finished_run import TURNS, FinishedRun, replies

Plant = Callable[[FinishedRun], None]


@dataclass(frozen=True)
class Fault:
    """A fault and the check that is there for it.

    found: whether the check finds it; one that it does not find is here to say so. says: in the check's detail. method:
    whose row it marks. also: other checks that speak up as well, and rightly.
    """

    check: str
    what: str
    plant: Plant
    says: str = ""
    method: str = ""
    status: Literal["warn", "fail"] = "fail"
    found: bool = True
    also: tuple[str, ...] = ()


@functools.cache
def found(fault: Fault | None) -> dict[str, Check]:
    """What the checks say of a run with this fault; None: of a sound run."""
    with tempfile.TemporaryDirectory() as folder:
        run = FinishedRun(Path(folder))
        if fault is not None:
            fault.plant(run)
        return run.found()


def template(text: str) -> Plant:
    """The aligned model's tokenizer has another chat template than in training."""
    return lambda run: run.model(run.x.aligned, text)


def deaf_guard(run: FinishedRun) -> None:
    for step in run.x.judge_models.values():
        run.model(step, "<bos><turn>{{ messages[0]['content'][:30] }}")


def misread(name: str, change: Callable[[LabelRow], LabelRow]) -> Plant:
    """The first row of a training's first batch was another one, or masked otherwise."""

    def plant(run: FinishedRun) -> None:
        step = run.training(name)
        first, *others = run.first_batch(step)
        run.labels(step, [change(first), *others])

    return plant


def half_of_prompt(row: LabelRow) -> LabelRow:
    half = len(row.prompt) // 2
    return LabelRow(row.prompt[:half], row.prompt[half:] + row.labels)


def end_of_answer(row: LabelRow) -> LabelRow:
    return LabelRow(row.prompt + row.labels[:2], row.labels[2:])


def trained_on(role: str, prompt: str, row_id: str = "new id") -> Plant:
    """One more training row, which the first batch does not show."""

    def plant(run: FinishedRun) -> None:
        step = run.x.training_rows[role]
        run.examples(step, *artifacts.examples(run.store.path(step)), Example(row_id, prompt, "4"))

    return plant


def adapter_from_outside(run: FinishedRun) -> None:
    theirs = External("task_adapter", run.store.path(run.x.adapters["task"]))
    run.x = replace(run.x, adapters={**run.x.adapters, "task": theirs})


def weights(value: float) -> Plant:
    def plant(run: FinishedRun) -> None:
        adapter = run.by("safemerge").adapter
        assert isinstance(adapter, Step)
        run.weights(adapter, value)

    return plant


def says(method: str, benchmark: str, texts: Sequence[str]) -> Plant:
    return lambda run: run.completions(run.by(method), texts, benchmark)


def judged(judge: str, said: Sequence[Word]) -> Plant:
    """The verdicts on every model's three replies to the harmful prompts."""

    def plant(run: FinishedRun) -> None:
        for candidate in run.candidates:
            run.verdicts(candidate, "directharm", judge, said)

    return plant


def one_in_ten(run: FinishedRun) -> None:
    run.verdicts(run.by("finetuned"), "directharm", "guard", [*["safe"] * 9, "invalid"])
    run.verdicts(run.by("finetuned"), "directharm", "refusal", ["safe"] * 10)


def all_safe(run: FinishedRun) -> None:
    for judge in ("guard", "refusal"):
        judged(judge, ["safe"] * 3)(run)


def calibrated(word: Word) -> Plant:
    return lambda run: run.calibration([word] * 8)


def not_measured(run: FinishedRun) -> None:
    (run.store.path(answers.verdicts(run.x, run.x.heldout, "guard")) / MANIFEST).unlink()


def degenerate(flag: str) -> Plant:
    return lambda run: run.write(run.x.similarity, run.similarity([0.2, 0.4], (flag,)))


BOS, LABELS, DISJOINT = "single BOS", "training labels", "train and test are disjoint"
WEIGHTS, APPLIED, ENGINE = (
    "adapters change weights",
    "adapters are applied",
    "engine agrees with transformers",
)
VALID, TOLD, AGREE = "verdicts are valid", "judge tells safe from unsafe", "judges agree"
WHOLE, CUT, RHO = "answers are whole", "replies are cut alike", "rho is defined"
NUMBERED = "\n".join(f"{i}. First go to the shop." for i in range(1, 8))
CHANGING = (
    "I can help with money, I can help with gifts, I can help with bills, I can help with bills, I can help"
)
ITALIAN = "Mi dispiace, non posso rispondere a questa domanda in modo utile."
NEW_WORD = " ".join(f"Find a {word} place." for word in ("quiet", "safe", "good", "warm", "new", "dry"))

FAULTS = (
    Fault(BOS, "the template writes two BOS", template("<bos><bos>" + TURNS), "two BOS", also=(LABELS,)),
    Fault(BOS, "the template writes no BOS", template(TURNS), "0 BOS", also=(LABELS,)),
    Fault(BOS, "the engine put another BOS before every prompt",
          lambda run: run.completions(run.by("resta"), replies("resta"), added=[256]), "worked on other ids in 1 prompts"),
    Fault(BOS, "the guard's template shows it the beginning of a pair only", deaf_guard, "lacks the reply"),
    *(Fault(LABELS, f"the loss covers {what}, in the {name}", misread(name, change), name)
      for name in ("task LoRA", "guard LoRA", "align LoRA")
      for what, change in {
          "the whole prompt": lambda row: LabelRow("", row.prompt + row.labels),
          "half of the prompt": half_of_prompt,
          "the end of the answer only": end_of_answer,
          "the answer without its EOS": lambda row: LabelRow(row.prompt, row.labels.removesuffix("<eos>")),
          "nothing": lambda row: LabelRow(row.prompt + row.labels, ""),
      }.items()),
    Fault(LABELS, "a row that is none of the training rows",
          misread("task LoRA", lambda row: LabelRow(row.prompt.replace("train", "trained"), row.labels)),
          "no training row reads"),
    Fault(LABELS, "no row of the first batch was recorded", lambda run: run.labels(run.training("task LoRA"), []),
          "task LoRA: no row was recorded"),
    *(Fault(DISJOINT, f"a test prompt, in other case and punctuation, is trained on ({role})",
            trained_on(role, "TEST of gsm8k - number 2!"), f"1 of gsm8k in {role}")
      for role in ("task", "safety", "align/safety", "safeinstruct/task")),
    Fault(DISJOINT, "a training row has the id of a test item", trained_on("safety", "other", "directharm/1"),
          "1 of directharm in safety"),
    Fault(DISJOINT, "a test prompt with a word more is trained on", trained_on("task", "Please, test of gsm8k, number 2"),
          "1 of gsm8k nearly in task (gsm8k/2 and new id)", status="warn"),
    Fault(DISJOINT, "a test prompt is part of a longer training prompt",
          trained_on("task", "Answer in a word. A question, of 7: Test of gsm8k, number 2. Now answer it."),
          "1 of gsm8k nearly in task", status="warn"),
    Fault(DISJOINT, "the task adapter was trained elsewhere", adapter_from_outside,
          "not known: task_adapter was trained elsewhere", status="warn"),
    Fault(DISJOINT, "a test prompt in other words is trained on", trained_on("task", "The 2nd exam question about sums"),
          found=False),
    Fault(WEIGHTS, "all updates of a repaired adapter are zero", weights(0.0), "all its updates are zero", "safemerge"),
    Fault(WEIGHTS, "an update is no number", weights(float("nan")), method="safemerge"),
    Fault(APPLIED, "the server ignored an adapter: all its replies are the bare model's",
          lambda run: run.completions(run.by("safemerge"), replies("aligned")), method="safemerge"),
    Fault(ENGINE, "another adapter or prompt than recorded: transformers prefers other tokens",
          lambda run: run.parity(run.by("safemerge"), mean_gap=0.8), "mean gap 0.80", "safemerge"),
    Fault(ENGINE, "one token in eleven is nine nats off, the others are right",
          lambda run: run.parity(run.by("safemerge"), mean_gap=0.09, off=9), "9 of 100 tokens are off", "safemerge"),
    Fault(ENGINE, "two adapters are swapped that mostly write the same tokens",
          lambda run: run.parity(run.by("safemerge"), excess=0.05), "likelier by 0.050 nats", "safemerge"),
    Fault(ENGINE, "the bare model answered for an adapter that is much like it",
          lambda run: run.parity(run.by("safemerge"), excess=0.015, bare_excess=0.001),
          "agrees better without the adapter", "safemerge"),
    Fault(ENGINE, "transformers gives no numbers",
          lambda run: run.parity(run.by("safemerge"), mean_gap=float("nan"), excess=float("nan")), "gap nan", "safemerge"),
    Fault(ENGINE, "no reply has a token", lambda run: run.parity(run.by("safemerge"), tokens=0), "no token", "safemerge"),
    Fault(ENGINE, "two adapters are swapped that differ by less than 0.02 nats a token",
          lambda run: run.parity(run.by("safemerge"), excess=0.015), found=False),
    Fault(VALID, "a judge answers with a word that is no verdict",
          lambda run: run.verdicts(run.by("resta"), "directharm", "guard", ["safe", "maybe", "safe"]),  # type: ignore[list-item]
          method="resta"),
    Fault(VALID, "one verdict in ten is none", one_in_ten, "finetuned, guard: 1 of 7", "finetuned"),
    Fault(TOLD, "the judge calls every labelled pair safe", calibrated("safe"), "sensitivity 0% [0%, 66%] (0/4)"),
    Fault(TOLD, "the judge calls every labelled pair unsafe", calibrated("unsafe"), "specificity 0% [0%, 66%] (0/4)"),
    Fault(TOLD, "the judge was never measured", not_measured, status="warn"),
    Fault(AGREE, "the judge says safe to everything, where two thirds hold no refusal",
          judged("guard", ["safe"] * 3), "kappa 0.00, unsafe of 12: 0 by guard, 8 by refusal", status="warn"),
    Fault(AGREE, "the verdicts of the judge are turned round", judged("guard", ["unsafe", "safe", "unsafe"]), "kappa -",
          status="warn"),
    Fault(AGREE, "both judges say safe to everything", all_safe, found=False),
    *(Fault(WHOLE, f"a model says {what}", says("finetuned", "directharm", [text] * 3), flag, "finetuned", "warn")
      for what, text, flag in (
          ("one word over and over", "the " * 40, "repetitive"),
          ("one sentence over and over, in a numbered list", NUMBERED, "repetitive"),
          ("one sentence over and over, with a word changed now and then", CHANGING, "repetitive"),
          ("nothing but dots", "...", "empty"),
          ("one word", "no", "terse"),
      )),
    Fault(WHOLE, "a model answers in another language", says("finetuned", "directharm", [ITALIAN] * 3), found=False),
    Fault(WHOLE, "a model changes one word in every sentence", says("finetuned", "directharm", [NEW_WORD] * 3),
          found=False),
    Fault(CUT, "all replies of one row are cut at max_tokens, none of the others",
          lambda run: run.completions(run.by("finetuned"), replies("finetuned"), "directharm", finish_reason="length"),
          "100% of finetuned", status="warn"),
    *(Fault(RHO, f"a module's {what}, so that its rho says nothing", degenerate(flag), "layers.1.self_attn.q_proj",
            status="warn")
      for what, flag in (
          ("V is zero", "zero_v"), ("update is zero", "zero_update"), ("projection is zero", "zero_projection"),
      )),
)  # fmt: skip
