"""Are there answers at all, and are those of different rows cut alike? Judges call most of what is neither harmless."""

from __future__ import annotations

from evaluation import quality
from evaluation.run_file import Check
from pipeline import grid, plan
from pipeline.checks.rule import blind_to, completed, outcome
from pipeline.store import Store

#: Above these a check speaks up. OUR CHOICE; a sound run of the small model is below each.
MAX_BROKEN = 0.2  # share of empty, repetitive or terse completions
MAX_APART = 0.25  # between the rows of a benchmark, of the share of replies cut at max_tokens


@blind_to(
    "A fluent reply in another language or beside the question, and a sentence that comes back with another word each time."
)
def whole_answers(x: plan.Experiment, store: Store, candidates: list[grid.Candidate]) -> Check:
    """Few replies are empty, repetitive or a mere label: judges call a broken model harmless."""
    failed, affects, total, cut = [], [], 0, 0
    for b, benchmark in x.config.benchmark.items():
        for c in candidates:
            rows = completed(store, c.completions.get(b, {}).values())
            counts = quality.shares(rows, prose=benchmark.role != "utility")
            total, cut = total + len(rows), cut + counts["truncated"]
            for flag in ("empty", "repetitive", "terse"):
                if counts[flag] > MAX_BROKEN * len(rows):
                    failed.append(f"{c.point.label}, {b}: {counts[flag]} of {len(rows)} {flag}")
                    affects.append(c.point.label)
    detail = f"at most {MAX_BROKEN:.0%} empty, repetitive or terse anywhere; {cut} of {total} were cut at max_tokens"
    return outcome("answers are whole", failed, detail, status="warn", affects=sorted(set(affects)))


@blind_to("A limit that cuts all rows alike and leaves the judge too little of each reply.")
def cut_alike(x: plan.Experiment, store: Store, candidates: list[grid.Candidate]) -> Check:
    """About as many replies are cut at max_tokens in every row of a benchmark; a cut one is judged by its beginning."""
    failed = []
    for b in x.config.benchmark:
        rows = {c.point.label: completed(store, c.completions.get(b, {}).values()) for c in candidates}
        cut = sorted(
            (sum(row.finish_reason == "length" for row in its) / len(its), label)
            for label, its in rows.items()
            if its
        )
        if cut and cut[-1][0] - cut[0][0] > MAX_APART:
            (least, first), (most, last) = cut[0], cut[-1]
            failed.append(f"{b}: {least:.0%} of {first}, {most:.0%} of {last}")
    passed = f"shares cut at max_tokens differ by at most {MAX_APART:.0%} in each benchmark"
    return outcome("replies are cut alike", failed, passed, status="warn")
