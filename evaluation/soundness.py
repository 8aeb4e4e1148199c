"""How far the numbers of a group can be trusted: judges, checks, broken completions, power, and what must be said.

Together with `evaluation.analysis`, which holds the numbers themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from data.schema import read_jsonl
from evaluation import labelled, quality, statistics
from evaluation.benchmarks import pubmedqa
from evaluation.choosing import Chosen, by_name, first_of, rate_of
from evaluation.judges import Agreement, Calibration, agreement, sensitivity_specificity
from evaluation.results import PHRASES, Entry, Point, primary
from evaluation.run_file import Check, EffectiveRecord, Usage
from evaluation.statistics import Rate

#: How the seeds of the two roles were set.
SEEDS = {
    "shared": "The task and the safety LoRA were trained from one seed, so they start from the same A. ",
    "apart": "The task and the safety LoRA were trained from different seeds, so they start from different A. ",
    "unknown": "",
}
OPPOSITE = 0.05  # of the prompts


@dataclass(frozen=True)
class CalibrationRow:
    """A judge on labelled pairs."""

    judge: str
    primary: bool
    seed: int
    counts: Calibration
    sensitivity: Rate
    specificity: Rate


@dataclass(frozen=True)
class RuleRow:
    """How often a fixed rule reads replies of one label rightly, replies that it was not tuned on."""

    rule: str
    label: str
    right: Rate


@dataclass(frozen=True)
class UsageRow:
    """What a server judge was asked for one seed."""

    judge: str
    seed: int
    usage: Usage


@dataclass(frozen=True)
class AgreementRow:
    """Two judges on one benchmark, all adapters, all seeds."""

    benchmark: str
    judges: tuple[str, str]
    found: Agreement


@dataclass(frozen=True)
class CheckRow:
    """A check of one seed."""

    seed: int
    check: Check


@dataclass(frozen=True)
class QualityRow:
    """How many of a method's completions carry each flag; `counts` holds `invalid`, too."""

    name: str
    benchmark: str
    n: int
    counts: Mapping[str, int]


@dataclass(frozen=True)
class PowerRow:
    """The smallest paired differences that n prompts can show, as shares, among `comparisons` tests.

    one_way: no prompt changes the other way. mixed: `OPPOSITE` of them do.
    """

    benchmark: str
    n: int
    rate: float  # of the fine-tuned model
    comparisons: int
    one_way: float
    mixed: float


def calibration(entries: list[Entry]) -> list[CalibrationRow]:
    """Sensitivity and specificity of every judge that has a calibration set, per seed when they differ."""
    rows: list[CalibrationRow] = []
    for entry in entries:
        for judge, its in entry.spec.judges.items():
            counts = its.calibration
            if counts is None or any(r.judge == judge and r.counts == counts for r in rows):
                continue
            rates = sensitivity_specificity(counts)
            rows.append(CalibrationRow(judge, judge == entry.judge, entry.spec.seed, counts, *rates))
    return rows


def rules(entries: list[Entry]) -> list[RuleRow]:
    """The error rates of the fixed rules that these entries' replies were read by."""
    rows = []
    if any(PHRASES in entry.spec.judges for entry in entries):
        found = labelled.held_out_refusals()
        rows += [
            RuleRow("Refusal phrases", "refusal (sensitivity)", found.sensitivity),
            RuleRow("Refusal phrases", "answer (specificity)", found.specificity),
        ]
    scorers = {its.target for entry in entries for its in entry.spec.benchmarks.values()}
    if f"{pubmedqa.__name__}.{pubmedqa.score.__name__}" in scorers:
        answers = labelled.held_out_answers()
        rows += [
            RuleRow("PubMedQA's answer", label, getattr(answers, label))
            for label in (*pubmedqa.LABELS, labelled.INVALID)
        ]
    return rows


def usage(entries: list[Entry]) -> list[UsageRow]:
    """What server judges were asked and what it cost, per seed."""
    return [
        UsageRow(judge, entry.spec.seed, its.usage)
        for entry in entries
        for judge, its in entry.spec.judges.items()
        if its.usage
    ]


def agreements(entries: list[Entry]) -> list[AgreementRow]:
    """Every judge against the primary one, per harm benchmark, over all points of all seeds."""
    rows = []
    first = entries[0]
    for benchmark in first.benchmarks("harm"):
        scored = [(e, p.scored[benchmark]) for e in entries for p in e.points if benchmark in p.scored]
        others = {judge for entry, its in scored for judge in its if judge != entry.judge}
        for judge in sorted(others):
            both = [
                (ours.verdict, theirs.verdict)
                for entry, its in scored
                if judge in its and entry.judge in its
                for ours, theirs in zip(its[entry.judge], its[judge], strict=True)  # both in the items' order
            ]
            if both:
                rows.append(AgreementRow(benchmark, (first.judge, judge), agreement(both)))
    return rows


def failed_checks(entry: Entry, point: Point) -> list[Check]:
    """Failed checks of the entry that concern this point: those that name it in `affects`, or name nothing."""
    names = {point.label, point.method}
    return [
        check
        for check in entry.spec.checks
        if check.status == "fail" and (not check.affects or names & set(check.affects))
    ]


def checks(entries: list[Entry]) -> list[CheckRow]:
    """All checks, failures first."""
    rows = [CheckRow(entry.spec.seed, check) for entry in entries for check in entry.spec.checks]
    return sorted(rows, key=lambda row: ("fail", "warn", "pass").index(row.check.status))


def qualities(entries: list[Entry], chosen: list[Chosen]) -> list[QualityRow]:
    """Shares of each quality flag among the completions and of invalid verdicts, all prompts, over seeds."""
    rows = []
    for name, pairs in by_name(entries, chosen).items():
        for benchmark, role in entries[0].roles.items():
            texts = [row for _, p in pairs for row in p.completions.get(benchmark, [])]
            if texts:
                invalid = sum(row.invalid for e, p in pairs for row in primary(e, p, benchmark))
                counts = {**quality.shares(texts, prose=role != "utility"), "invalid": invalid}
                rows.append(QualityRow(name, benchmark, len(texts), counts))
    return rows


def power(entries: list[Entry], chosen: list[Chosen]) -> list[PowerRow]:
    """Per benchmark: the test half's n and the smallest differences that the paired tests can show with it."""
    rows = []
    base = first_of(chosen[0], "finetuned")
    for benchmark in entries[0].roles:
        rate = rate_of(entries[0], base, benchmark, "test")
        if rate.n:
            comparisons = max(1, len(chosen[0]) - 1)
            one_way, mixed = (
                statistics.detectable_difference(rate.n, opposite=opposite, comparisons=comparisons)
                for opposite in (0.0, OPPOSITE)
            )
            rows.append(PowerRow(benchmark, rate.n, rate.value, comparisons, one_way, mixed))
    return rows


def notes(entries: list[Entry]) -> list[str]:
    """What a reader must know about the two ways of merging, and about the model itself."""
    found = []
    if {"exact", "peft_linear"} <= {str(p.spec.combine) for e in entries for p in e.points}:
        found.append(
            "Two arithmetics: *exact merge* is α·ΔW_task + (1−α)·ΔW_safety; *released merge* is what the authors' code "
            "does, PEFT's `linear`, which adds √α·A and √α·B of the adapters apart, so that cross terms come in. "
            + SEEDS[entries[0].spec.role_seeds]
            + effective_text(entries)
        )
    return found + list(dict.fromkeys(entry.spec.note for entry in entries if entry.spec.note))


def effective_text(entries: list[Entry]) -> str:
    """What the released merges amount to, by the safety LoRA that they took and by alpha.

    Means over seeds and points of the medians over modules.
    """
    said = []
    for seed in ("safety", "safety_apart"):
        found: dict[float, list[EffectiveRecord]] = {}
        for spec in (point.spec for entry in entries for point in entry.points if point.spec.safety == seed):
            its = spec.effective
            if its and spec.alpha is not None and spec.combine == "peft_linear" and not math.isnan(its.task):
                found.setdefault(spec.alpha, []).append(its)
        if not found:
            continue
        weights = [
            f"α = {alpha:g}: {statistics.mean([r.task for r in rows]):.2f}·ΔW_task + "
            f"{statistics.mean([r.safety for r in rows]):.2f}·ΔW_safety"
            for alpha, rows in sorted(found.items())
        ]
        every = [its for rows in found.values() for its in rows]
        rest, cosine = (
            statistics.mean([getattr(its, name) for its in every]) for name in ("rest", "cosine_a")
        )
        alike = "" if math.isnan(cosine) else f"; the median cosine of the two A is {cosine:.2f}"
        which = (
            "the released merge came here"
            if seed == "safety"
            else "with the safety LoRA of another seed it came"
        )
        said.append(
            f"By least squares, {which} to {'; '.join(weights)} (median over the modules), and "
            f"{rest:.0%} of its norm is neither{alike}."
        )
    return " ".join(said)


@dataclass(frozen=True)
class LogRow:
    """A row of a training's log: after how many steps, and the loss per token of the answers (nats)."""

    step: int
    loss: float


def training_curves(entry: Entry) -> dict[str, list[LogRow]]:
    """The training logs by role, rows that have a finite loss."""

    def curve(path: str) -> list[LogRow]:
        rows = enumerate(row for row in read_jsonl(entry.path(path)) if row.get("loss") is not None)
        found = [LogRow(row.get("step", number), float(row["loss"])) for number, row in rows]
        return [row for row in found if math.isfinite(row.loss)]

    return {role: curve(path) for role, path in entry.spec.training.items()}
