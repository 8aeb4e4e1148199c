"""Checks on the finished artifacts of a run: what silently corrupts this kind of experiment, and whether it did here.

A failed one marks its rows in the report. What each finds is shown on planted faults (docs/trust.md, `tests/faults.py`).
Doubled BOS tokens, wrong labels and prompts that a judge would not see are refused earlier as well, where they would do
damage (`data.chat`, `pipeline.stages.finetune`, `evaluation.reading`); here they are looked for in what was really made.
"""

from __future__ import annotations

from evaluation.run_file import Check
from pipeline import grid, plan
from pipeline.checks import judging, replies, serving, training, weights
from pipeline.checks.rule import Rule
from pipeline.store import Store

RULES: tuple[Rule, ...] = (
    serving.single_bos,
    training.labels,
    training.disjointness,
    weights.adapters_change_weights,
    serving.adapters_served,
    serving.engine_parity,
    judging.valid_verdicts,
    judging.judge_tells_apart,
    judging.judges_agree,
    replies.whole_answers,
    replies.cut_alike,
    weights.defined_rho,
)


def check(x: plan.Experiment, store: Store, candidates: list[grid.Candidate]) -> list[Check]:
    """All checks of a finished run."""
    return [rule(x, store, candidates) for rule in RULES]
