"""Did the models read what they were meant to read, and did the engine answer with the adapter that it was asked for?"""

from __future__ import annotations

from typing import Any

from data.chat import prompt_ids
from evaluation.run_file import Check
from pipeline import answers, artifacts, grid, plan
from pipeline.checks.rule import blind_to, completed, outcome
from pipeline.config import locate
from pipeline.stage_settings import GuardJudge
from pipeline.stages.judge import guard_ids
from pipeline.store import Store
from safemerge.errors import UserError

MAX_GAP = 0.1  # mean nats by which transformers prefers another token than the engine wrote. OUR CHOICE


def _leading_bos(ids: list[int], bos: int | None) -> int:
    return next((n for n, token in enumerate(ids) if token != bos), len(ids)) if bos is not None else 0


@blind_to(
    "A BOS that the engine puts before the ids that it is given: what is recorded is the length that was sent."
)
def single_bos(x: plan.Experiment, store: Store, candidates: list[grid.Candidate]) -> Check:
    """Every prompt, encoded again, begins with exactly one BOS (none if the tokenizer has none) and has the length sent."""
    failed: list[str] = []
    counted = 0

    def look(name: str, tokenizer: Any, encode: Any) -> int:
        try:
            ids = encode()
        except UserError as error:
            failed.append(f"{name}: {error}")
            return -1
        number = _leading_bos(ids, tokenizer.bos_token_id)
        if tokenizer.bos_token_id is not None and number != 1:
            failed.append(f"{name}: {number} BOS")
        return len(ids)

    system = x.config.model.system_prompt
    tokenizer = artifacts.tokenizer(store.path(x.aligned))
    for b, step in x.items.items():
        lengths = {}
        for item in artifacts.items(store.path(step)):
            lengths[item.id] = look(
                item.id, tokenizer, lambda item=item: prompt_ids(tokenizer, item.prompt, system=system)
            )
            counted += 1
        for c in candidates:
            rows = completed(store, c.completions.get(b, {}).values())
            odd = [row.id for row in rows if lengths.get(row.id) != row.prompt_tokens]
            if odd:
                failed.append(f"{c.point.label}, {b}: {len(odd)} prompts were sent with another length")
    for name, model in x.judge_models.items():
        if x.calibration is None or not store.has(x.calibration):
            continue
        judging = artifacts.tokenizer(store.path(model))
        settings = GuardJudge(**answers.verdicts(x, x.calibration, name).settings)
        guard = locate(settings.target)()
        for pair in artifacts.labelled_pairs(store.path(x.calibration)):
            look(
                f"{name}, {pair.id}",
                judging,
                lambda pair=pair, t=judging, g=guard, s=settings: guard_ids(
                    t, g, s.system_prompt, pair.prompt, pair.response
                ),
            )
            counted += 1
    return outcome("single BOS", failed, f"counted in {counted} prompts of policy and judge")


@blind_to("An adapter of which the engine applies a part only, or at another scale: its answers differ, too.")
def adapters_served(x: plan.Experiment, store: Store, candidates: list[grid.Candidate]) -> Check:
    """An adapter that changes weights changes outputs; equal ones mean that the server answered with the bare model."""
    name = "adapters are applied"
    if not any(c.adapter is None for c in candidates):
        detail = "method aligned was left out: nothing to compare with"
        return Check(name=name, status="warn", detail=detail)

    def as_bare(c: grid.Candidate) -> bool:
        """Whether the aligned model gives the same answers to the prompts that the candidate was given."""
        bare = [
            answers.completions(x, None, b, half) for b, halves in c.completions.items() for half in halves
        ]
        ours, theirs = completed(store, c.replies), completed(store, bare)
        return [row.completion for row in ours] == [row.completion for row in theirs]

    served = [c for c in candidates if c.adapter is not None]
    same = [c.point.label for c in served if as_bare(c)]
    passed = f"all {len(served)} adapters answer differently from the aligned model"
    return outcome(name, same, passed, affects=same)


@blind_to("Anything that the engine and transformers do alike, and every prompt but one per benchmark.")
def engine_parity(x: plan.Experiment, store: Store, candidates: list[grid.Candidate]) -> Check:
    """Transformers with the same adapter finds the engine's tokens likeliest, up to rounding."""
    name = "engine agrees with transformers"
    if x.config.generation.temperature > 0:
        return Check(name=name, status="warn", detail="not checked: sampled tokens")
    failed, affects, largest, tokens = [], [], 0.0, 0
    for c in candidates:
        if c.parity is None or not store.has(c.parity):
            failed.append(f"{c.point.label}: not checked, run the generate stage")
            continue
        found = artifacts.parity(store.path(c.parity))
        tokens, largest = tokens + found.tokens, max(largest, found.mean_gap)
        if not found.tokens or found.mean_gap > MAX_GAP:
            failed.append(f"{c.point.label}: mean gap {found.mean_gap:.2f} nats over {found.tokens} tokens")
            affects.append(c.point.label)
    detail = f"{tokens} tokens; the largest mean gap of an adapter is {largest:.3f} nats (bound {MAX_GAP})"
    return outcome(name, failed, detail, affects=affects)
