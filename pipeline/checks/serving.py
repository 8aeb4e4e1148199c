"""Did the models read what they were meant to read, and did the engine answer with the adapter that it was asked for?"""

from __future__ import annotations

import itertools
from typing import Any

from data.chat import prompt_ids
from data.schema import ids_digest
from evaluation.guard_format import questions
from evaluation.run_file import Check
from pipeline import answers, artifacts, grid, plan
from pipeline.artifacts import Parity
from pipeline.checks.rule import blind_to, completed, outcome
from pipeline.config import locate
from pipeline.judge_stage_settings import GuardJudge
from pipeline.stages.judge import guard_ids
from pipeline.store import Store
from safemerge.errors import UserError

#: Beyond these a check speaks up. OUR CHOICE.
MAX_GAP = 0.1  # mean nats by which transformers prefers another token than the engine wrote
MAX_OFF = 0.02  # share of the tokens that transformers finds less likely than another by more than a nat
MAX_EXCESS = 0.02  # nats per token by which the engine finds its tokens likelier than transformers does, or less likely
ROUNDING = 0.001  # nats per token: bare models in bfloat16, which share all their weights, differed by 0.0003


def _leading_bos(ids: list[int], bos: int | None) -> int:
    return next((n for n, token in enumerate(ids) if token != bos), len(ids)) if bos is not None else 0


@blind_to("A token that the engine adds without reporting it among the prompt's ids.")
def single_bos(x: plan.Experiment, store: Store, candidates: list[grid.Candidate]) -> Check:
    """Every prompt begins with exactly one BOS (none if the tokenizer has none), and the engine worked on these ids."""
    failed: list[str] = []
    counted = 0

    def look(name: str, tokenizer: Any, encode: Any) -> str:
        """The digest of the prompt's ids, encoded again."""
        try:
            ids = encode()
        except UserError as error:
            failed.append(f"{name}: {error}")
            return ""
        number = _leading_bos(ids, tokenizer.bos_token_id)
        if tokenizer.bos_token_id is not None and number != 1:
            failed.append(f"{name}: {number} BOS")
        return ids_digest(ids)

    tokenizer = artifacts.tokenizer(store.path(x.aligned))
    prompts = {c.point.system_prompt or x.config.model.system_prompt for c in candidates}
    for (b, step), system in itertools.product(x.items.items(), sorted(prompts, key=str)):
        ours = {}
        for item in artifacts.items(store.path(step)):
            ours[item.id] = look(
                item.id,
                tokenizer,
                lambda item=item, system=system: prompt_ids(tokenizer, item.prompt, system=system),
            )
            counted += 1
        for c in candidates:
            if (c.point.system_prompt or x.config.model.system_prompt) != system:
                continue
            rows = completed(store, c.completions.get(b, {}).values())
            odd = [row.id for row in rows if ours.get(row.id) != row.prompt_digest]
            if odd:
                failed.append(f"{c.point.label}, {b}: the engine worked on other ids in {len(odd)} prompts")
    for name, model in x.judge_models.items():
        judging = artifacts.tokenizer(store.path(model))
        settings = GuardJudge(**answers.verdicts(x, x.heldout, name).settings)
        guard = locate(settings.target)()
        for pair in artifacts.labelled_pairs(store.path(x.heldout)):
            for number in range(len(questions(guard, pair.prompt, pair.response))):
                look(
                    f"{name}, {pair.id}",
                    judging,
                    lambda n=number, pair=pair, t=judging, g=guard, s=settings: guard_ids(
                        t, g, s.system_prompt, pair.prompt, pair.response
                    )[n],
                )
                counted += 1
    return outcome("single BOS", failed, f"counted in {counted} prompts of policy and judge")


@blind_to("What the next check sees: a part of an adapter, another one, another scale.")
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


@blind_to(
    "What the engine and transformers do alike; an adapter in place of one that finds its tokens as likely, to 0.02 nats."
)
def engine_parity(x: plan.Experiment, store: Store, candidates: list[grid.Candidate]) -> Check:
    """Transformers with the same adapter finds the engine's tokens likeliest, and as likely as the engine does."""
    name = "engine agrees with transformers"
    if x.config.generation.temperature > 0:
        return Check(name=name, status="warn", detail="not checked: sampled tokens")
    failed, affects, found = [], [], list[Parity]()
    for c in candidates:
        if c.parity is None or not store.has(c.parity):
            failed.append(f"{c.point.label}: not checked, run the generate stage")
            continue
        its = artifacts.parity(store.path(c.parity))
        found.append(its)
        if problem := _disagreement(its):
            failed.append(f"{c.point.label}: {problem}")
            affects.append(c.point.label)
    detail = (
        f"{sum(its.tokens for its in found)} tokens; of an adapter at most: mean gap "
        f"{max((its.mean_gap for its in found), default=0.0):.3f} nats (bound {MAX_GAP}), excess "
        f"{max((abs(its.excess) for its in found), default=0.0):.4f} nats per token (bound {MAX_EXCESS})"
    )
    return outcome(name, failed, detail, affects=affects)


def _disagreement(its: Parity) -> str:
    """What is wrong with an adapter's comparison; "" if nothing is."""
    if not its.tokens:
        return "no token to compare"
    # Turned round, so that what is no number does not pass.
    if not its.mean_gap <= MAX_GAP:
        return f"mean gap {its.mean_gap:.2f} nats over {its.tokens} tokens"
    if its.off > MAX_OFF * its.tokens:
        return f"{its.off} of {its.tokens} tokens are off by more than a nat"
    if not abs(its.excess) <= MAX_EXCESS:
        return f"the engine finds its tokens likelier by {its.excess:.3f} nats each: it may have served another adapter"
    if its.bare_excess is not None and abs(its.bare_excess) + ROUNDING < abs(its.excess):
        return "transformers agrees better without the adapter"
    return ""
