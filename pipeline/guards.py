"""Checks on the finished artifacts of a run: what silently corrupts this kind of experiment, and whether it did here.

Each returns {"name", "status": pass|warn|fail, "detail", "affects": [labels]}; a failed one marks its rows in the report.
Doubled BOS tokens and labels that cover the prompt are refused earlier, where they would do their damage
(`data.chat`, `pipeline.stages.finetune`).
"""

from __future__ import annotations

import json
from typing import Any

from data import disjoint, schema
from pipeline import plan
from pipeline.store import Store


def _guard(
    name: str, failed: list[str], passed: str, *, status: str = "fail", affects: list[str] | None = None
) -> dict[str, Any]:
    detail = (
        "; ".join(failed[:5]) + (f" and {len(failed) - 5} more" if len(failed) > 5 else "")
        if failed
        else passed
    )
    return {"name": name, "status": status if failed else "pass", "detail": detail, "affects": affects or []}


def labels(x: plan.Experiment, store: Store) -> dict[str, Any]:
    """The unmasked labels of each training's first batch end in EOS and hold nothing of the prompt."""
    failed, shown = [], 0
    for step in [*x.trained, *(s for s in (x.alignment, x.guard) if s)]:
        found = json.loads((store.path(step) / "labels.json").read_text())
        for row in found["first_batch"]:
            shown += 1
            if not row["labels"].endswith(found["eos"]) or not row["prompt"]:
                failed.append(f"{step.name}: {row['labels'][-30:]!r}")
    return _guard(
        "training labels", failed, f"{shown} decoded rows are an answer with its EOS, none of the prompt"
    )


def disjointness(x: plan.Experiment, store: Store) -> dict[str, Any]:
    """No test item is among the training rows, by id or by normalised text."""
    failed = []
    items = {name: schema.read_items(store.path(step) / "rows.jsonl") for name, step in x.items.items()}
    for role, step in x.training_rows.items():
        if role == "guard":  # the judge may know a prompt; what it must not know are the calibration pairs
            continue
        rows = schema.read_examples(store.path(step) / "rows.jsonl")
        for name, its in items.items():
            found = disjoint.overlaps(rows, its)
            if found:
                failed.append(f"{len(found)} of {name} in {role}")
    return _guard(
        "train and test are disjoint",
        failed,
        f"{len(x.training_rows)} training sets against {len(items)} benchmarks",
    )


def adapters_served(x: plan.Experiment, store: Store, candidates: list[plan.Candidate]) -> dict[str, Any]:
    """An adapter that changes weights changes outputs; equal ones mean that the server answered with the bare model."""
    bare = next((c for c in candidates if c.adapter is None), None)
    if bare is None:
        return {
            "name": "adapters are applied",
            "status": "warn",
            "detail": "method aligned was left out: nothing to compare with",
            "affects": [],
        }

    def outputs(candidate: plan.Candidate) -> list[str]:
        files = [
            store.path(plan.completions(x, candidate.adapter, b)) / "completions.jsonl"
            for b in x.config.benchmark
        ]
        return [row["completion"] for file in files for row in schema.read_jsonl(file)]

    reference = outputs(bare)
    same = [c.point.label for c in candidates if c.adapter is not None and outputs(c) == reference]
    number = len([c for c in candidates if c.adapter is not None])
    return _guard(
        "adapters are applied",
        same,
        f"all {number} adapters answer differently from the aligned model",
        affects=same,
    )


def defined_rho(x: plan.Experiment, store: Store) -> dict[str, Any]:
    """Modules without a defined rho (V or the update is zero) count as 0.0; they are named."""
    if not store.has(x.similarity):
        return {"name": "rho is defined", "status": "pass", "detail": "no method needs it", "affects": []}
    from pipeline.merging.table import read_table

    rows = read_table(store.path(x.similarity) / "similarity.csv")
    odd = [row.module for row in rows if row.degenerate]
    return _guard("rho is defined", odd, f"in all {len(rows)} modules", status="warn")


def check(x: plan.Experiment, store: Store, candidates: list[plan.Candidate]) -> list[dict[str, Any]]:
    """All guards of a finished run."""
    bos = "refused while encoding: every prompt of training, generation and judge came from token ids with at most one BOS"
    return [
        {"name": "single BOS", "status": "pass", "detail": bos, "affects": []},
        labels(x, store),
        disjointness(x, store),
        adapters_served(x, store, candidates),
        defined_rho(x, store),
    ]
