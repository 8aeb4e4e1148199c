"""GSM8K: grade-school word problems, scored by the final number.

An instance (https://huggingface.co/datasets/openai/gsm8k, config main, test, row 1):

    question   A robe takes 2 bolts of blue fiber and half that much white fiber.  How many bolts in
    total does it take?
    answer     It takes 2/2=<<2/2=1>>1 bolt of white fiber
               So the total amount of fabric is 2+1=<<2+1=3>>3 bolts of fabric
               #### 3

Official scorer: https://github.com/openai/grade-school-math/blob/master/grade_school_math/dataset.py We
decide as lm-evaluation-harness 0.4.13 does (`lm_eval/tasks/gsm8k/gsm8k.yaml`), because the literature
reports its two filters: `strict-match` (the first `#### N`) and `flexible-extract` (the last number). The
two can differ by tens of points on the same outputs, so both are always reported; `primary` says which one
is called utility.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from data.schema import Completion, Item
from evaluation.benchmarks.common import Scored, pair

STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
IGNORED = tuple(re.compile(p) for p in (r",", r"\$", r"(?s).*#### ", r"\.$"))
INVALID = "[invalid]"


def score(
    items: Sequence[Item],
    completions: Sequence[Completion],
    *,
    primary: Literal["strict", "flexible"] = "flexible",
) -> list[Scored]:
    """A row per item: correct by the `primary` filter; both filters' outcomes beside it. Invalid: no number found."""
    rows = []
    for item, completion in pair(items, completions):
        text, reference = completion.completion, item.reference
        found = {"strict": extract_strict(text), "flexible": extract_flexible(text)}
        right = {name: exact_match(answer, reference) for name, answer in found.items()}
        rows.append(
            Scored(
                item.id,
                item.half,
                outcome=right[primary],
                invalid=found[primary] == INVALID,
                category=item.category,
                answer=found[primary],
                reference=reference,
                also={f"gsm8k_{name}": outcome for name, outcome in right.items()},
            )
        )
    return rows


def extract_strict(text: str) -> str:
    """The first `#### N`, or "[invalid]"."""
    found = STRICT.search(text)
    return found.group(1).strip() if found else INVALID


def extract_flexible(text: str) -> str:
    """The last thing that looks like a number (it may be `.,` alone, as in the harness), or "[invalid]"."""
    found = FLEXIBLE.findall(text)
    return next((group.strip() for group in found[-1] if group), INVALID) if found else INVALID


def exact_match(prediction: str, reference: str) -> bool:
    """Equality after dropping commas, dollar signs, everything up to `#### ` and a final full stop."""
    for pattern in IGNORED:
        prediction, reference = pattern.sub("", prediction), pattern.sub("", reference)
    return prediction.lower() == reference.lower()
