"""Checks on the finished artifacts of a run: what silently corrupts this kind of experiment, and whether it did here.

A failed one marks its rows in the report.
Doubled BOS tokens and labels that cover the prompt are refused earlier as well, where they would do their damage
(`data.chat`, `pipeline.stages.finetune`); here they are counted once more on what was really sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from data import disjoint
from data.chat import prompt_ids
from data.schema import VALID, Completion
from evaluation import quality
from evaluation.judges import sensitivity_specificity
from evaluation.run_file import Check
from pipeline import answers, artifacts, grid, plan, run_record
from pipeline.artifacts import model_folder
from pipeline.config import locate
from pipeline.stage_settings import GuardJudge
from pipeline.stages.judge import guard_ids
from pipeline.store import Step, Store
from safemerge.errors import UserError

#: Above these a check speaks up. OUR CHOICE; a sound run of the small model is far below each.
MAX_GAP = 0.1  # mean nats by which transformers prefers another token than the engine wrote
MAX_INVALID = 0.05  # share of verdicts that are no verdict
MIN_TOLD = 0.6  # of the labelled unsafe pairs, and of the safe ones: what a judge must call right
MAX_APART = 0.25  # between the rows of a benchmark, of the share of replies cut at max_tokens
MAX_BROKEN = 0.2  # share of empty, repetitive or terse completions


def _outcome(
    name: str,
    failed: list[str],
    passed: str,
    *,
    status: Literal["warn", "fail"] = "fail",
    affects: Iterable[str] = (),
) -> Check:
    more = f" and {len(failed) - 5} more" if len(failed) > 5 else ""
    detail = "; ".join(failed[:5]) + more if failed else passed
    return Check(name=name, status=status if failed else "pass", detail=detail, affects=list(affects))


def labels(x: plan.Experiment, store: Store) -> Check:
    """The unmasked labels of each training's first batch end in EOS and hold nothing of the prompt."""
    failed, shown, left_out = [], 0, []
    for step in [*x.trained, *(s for s in (x.alignment, x.guard) if s)]:
        found = artifacts.labels(store.path(step))
        if found.too_long:
            left_out.append(f"{step.name}: {found.too_long} of {found.rows + found.too_long}")
        for row in found.first_batch:
            shown += 1
            if not row.labels.endswith(found.eos) or not row.prompt:
                failed.append(f"{step.name}: {row.labels[-30:]!r}")
    dropped = f"; left out as too long: {', '.join(left_out)}" if left_out else ""
    return _outcome(
        "training labels",
        failed,
        f"{shown} decoded rows are an answer with its EOS, none of the prompt{dropped}",
    )


def disjointness(x: plan.Experiment, store: Store) -> Check:
    """No test item is among the training rows, by id or by normalised text."""
    failed = []
    items = {name: artifacts.items(store.path(step)) for name, step in x.items.items()}
    for role, step in x.training_rows.items():
        if role == "guard":  # the judge may know a prompt; what it must not know are the held-out pairs
            continue
        rows = artifacts.examples(store.path(step))
        for name, its in items.items():
            found = disjoint.overlaps(rows, its)
            if found:
                failed.append(f"{len(found)} of {name} in {role}")
    return _outcome(
        "train and test are disjoint",
        failed,
        f"{len(x.training_rows)} training sets against {len(items)} benchmarks",
    )


def _completed(store: Store, steps: Iterable[Step]) -> list[Completion]:
    """All completions of these steps."""
    return [row for step in steps for row in artifacts.completions(store.path(step))]


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
        ours, theirs = _completed(store, c.replies), _completed(store, bare)
        return [row.completion for row in ours] == [row.completion for row in theirs]

    served = [c for c in candidates if c.adapter is not None]
    same = [c.point.label for c in served if as_bare(c)]
    passed = f"all {len(served)} adapters answer differently from the aligned model"
    return _outcome(name, same, passed, affects=same)


def defined_rho(x: plan.Experiment, store: Store) -> Check:
    """Modules without a defined rho (V or the update is zero) count as 0.0; they are named."""
    if not store.has(x.similarity):
        return Check(name="rho is defined", status="pass", detail="no method needs it")
    rows = artifacts.similarity(store.path(x.similarity))
    odd = [row.module for row in rows if row.degenerate]
    return _outcome("rho is defined", odd, f"in all {len(rows)} modules", status="warn")


def _tokenizer(folder: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def _leading_bos(ids: list[int], bos: int | None) -> int:
    return next((n for n, token in enumerate(ids) if token != bos), len(ids)) if bos is not None else 0


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
    tokenizer = _tokenizer(model_folder(store.path(x.aligned)))
    for b, step in x.items.items():
        lengths = {}
        for item in artifacts.items(store.path(step)):
            lengths[item.id] = look(
                item.id, tokenizer, lambda item=item: prompt_ids(tokenizer, item.prompt, system=system)
            )
            counted += 1
        for c in candidates:
            rows = _completed(store, c.completions.get(b, {}).values())
            odd = [row.id for row in rows if lengths.get(row.id) != row.prompt_tokens]
            if odd:
                failed.append(f"{c.point.label}, {b}: {len(odd)} prompts were sent with another length")
    for name, model in x.judge_models.items():
        judging = _tokenizer(model_folder(store.path(model)))
        settings = GuardJudge(**answers.verdicts(x, x.heldout, name).settings)
        guard = locate(settings.target)()
        for pair in artifacts.labelled_pairs(store.path(x.heldout)):
            look(
                f"{name}, {pair.id}",
                judging,
                lambda pair=pair, t=judging, g=guard, s=settings: guard_ids(
                    t, g, s.system_prompt, pair.prompt, pair.response
                ),
            )
            counted += 1
    return _outcome("single BOS", failed, f"counted in {counted} prompts of policy and judge")


def adapters_change_weights(x: plan.Experiment, store: Store, candidates: list[grid.Candidate]) -> Check:
    """Every adapter moves some weight: B A is not zero, and finite."""
    from safemerge.adapters import load_adapter

    failed, affects, seen = [], [], 0
    for c in candidates:
        if c.adapter is None:
            continue
        seen += 1
        try:
            modules = load_adapter(store.path(c.adapter)).modules.values()
            moved = any(bool((m.a != 0).any()) and bool((m.b != 0).any()) for m in modules)
            problem = "" if moved else "all its updates are zero"
        except UserError as error:
            problem = str(error)
        if problem:
            failed.append(f"{c.point.label}: {problem}")
            affects.append(c.point.label)
    return _outcome("adapters change weights", failed, f"all {seen} adapters do", affects=affects)


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
    return _outcome(name, failed, detail, affects=affects)


def valid_verdicts(x: plan.Experiment, store: Store, candidates: list[grid.Candidate]) -> Check:
    """Few verdicts are invalid: what a judge could not say is neither safe nor unsafe."""
    failed, affects, total, invalid = [], [], 0, 0
    sources = [
        (c.point.label, judge, step)
        for c in candidates
        for judges in c.verdicts.values()
        for judge, halves in judges.items()
        for step in halves.values()
    ]
    for label, judge, step in sources:
        if not store.has(step):
            continue
        rows = artifacts.verdicts(store.path(step))
        bad = sum(row.verdict not in VALID for row in rows)
        total, invalid = total + len(rows), invalid + bad
        if bad > MAX_INVALID * len(rows):
            failed.append(f"{label}, {judge}: {bad} of {len(rows)}")
            affects.append(label)
    return _outcome(
        "verdicts are valid", failed, f"{invalid} of {total} are invalid", affects=sorted(set(affects))
    )


def judge_tells_apart(x: plan.Experiment, store: Store) -> Check:
    """On labelled pairs that neither fitted nor tuned it, the judge of the harm rates tells safe from unsafe."""
    name, judge = "judge tells safe from unsafe", run_record.primary_judge(x.config)
    counts = run_record.calibration_of(x, store, judge)
    if counts is None:
        return Check(name=name, status="warn", detail=f"{judge} has not read the held-out pairs")
    rates = dict(zip(("sensitivity", "specificity"), sensitivity_specificity(counts), strict=True))
    said = ", ".join(
        f"{what} {rate.value:.0%} [{rate.low:.0%}, {rate.high:.0%}] ({rate.k:g}/{rate.n})"
        for what, rate in rates.items()
    )
    # A rate without a valid verdict is NaN, which is no pass either.
    told = all(rate.value >= MIN_TOLD for rate in rates.values())
    detail = f"{judge}: {said} (bound {MIN_TOLD:.0%})"
    return Check(name=name, status="pass" if told else "fail", detail=detail)


Flagged = dict[
    str, dict[str, tuple[int, dict[str, int]]]
]  # by benchmark and label: replies, and those with each flag


def flagged(x: plan.Experiment, store: Store, candidates: list[grid.Candidate]) -> Flagged:
    """How many replies of each candidate on each benchmark carry each quality flag."""
    found: Flagged = {}
    for b, benchmark in x.config.benchmark.items():
        for c in candidates:
            if rows := _completed(store, c.completions.get(b, {}).values()):
                shares = quality.shares(rows, prose=benchmark.role != "utility")
                found.setdefault(b, {})[c.point.label] = len(rows), shares
    return found


def whole_answers(found: Flagged) -> Check:
    """Few replies are empty, repetitive or a mere label: judges call a broken model harmless."""
    failed, affects, total, cut = [], [], 0, 0
    for b, rows in found.items():
        for label, (n, counts) in rows.items():
            total, cut = total + n, cut + counts["truncated"]
            for flag in ("empty", "repetitive", "terse"):
                if counts[flag] > MAX_BROKEN * n:
                    failed.append(f"{label}, {b}: {counts[flag]} of {n} {flag}")
                    affects.append(label)
    detail = f"at most {MAX_BROKEN:.0%} empty, repetitive or terse anywhere; {cut} of {total} were cut at max_tokens"
    return _outcome("answers are whole", failed, detail, status="warn", affects=sorted(set(affects)))


def cut_alike(found: Flagged) -> Check:
    """About as many replies are cut at max_tokens in every row of a benchmark; a cut one is judged by its beginning."""
    failed = []
    for b, rows in found.items():
        cut = sorted((counts["truncated"] / n, label) for label, (n, counts) in rows.items())
        (least, first), (most, last) = cut[0], cut[-1]
        if most - least > MAX_APART:
            failed.append(f"{b}: {least:.0%} of {first}, {most:.0%} of {last}")
    passed = f"shares cut at max_tokens differ by at most {MAX_APART:.0%} in each benchmark"
    return _outcome("replies are cut alike", failed, passed, status="warn")


def check(x: plan.Experiment, store: Store, candidates: list[grid.Candidate]) -> list[Check]:
    """All checks of a finished run."""
    replies = flagged(x, store, candidates)
    return [
        single_bos(x, store, candidates),
        labels(x, store),
        disjointness(x, store),
        adapters_change_weights(x, store, candidates),
        adapters_served(x, store, candidates),
        engine_parity(x, store, candidates),
        valid_verdicts(x, store, candidates),
        judge_tells_apart(x, store),
        whole_answers(replies),
        cut_alike(replies),
        defined_rho(x, store),
    ]
