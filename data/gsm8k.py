"""GSM8K: grade-school word problems. Columns question, answer.
https://github.com/openai/grade-school-math (MIT)

A real row of the bundled test file, in GSM8K's schema:

    question  Ben had 20 stones and gave 8 of them to Pablo. How many stones does Ben have left?
    answer    Ben has 20 - 8 = <<20-8=12>>12 stones left.
              #### 12

Training keeps "#### 12" as the end of the response and drops the calculator annotations <<...>>.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from data.dataset import Dataset
from data.schema import Example, Item

ANNOTATION = re.compile(r"<<[^<>]*>>")


def strip_annotations(answer: str) -> str:
    """The answer without <<...>>."""
    return ANNOTATION.sub("", answer)


def final_answer(answer: str) -> str:
    """What follows '####', without thousands separators; "" if there is no '####'."""
    _, mark, final = answer.rpartition("####")
    return final.strip().replace(",", "") if mark else ""


def examples(rows: Iterable[dict[str, Any]], *, annotations: bool = False) -> list[Example]:
    """Training rows; the prompt is the question alone."""
    return [
        Example(
            id=f"gsm8k/train/{i}",
            prompt=row["question"].strip(),
            response=(row["answer"] if annotations else strip_annotations(row["answer"])).strip(),
        )
        for i, row in enumerate(rows)
    ]


def items(rows: Iterable[dict[str, Any]]) -> list[Item]:
    """Test items; the reference is the final number as text, for example "12"."""
    return [
        Item(
            id=f"gsm8k/test/{i}",
            prompt=row["question"].strip(),
            reference=final_answer(row["answer"]),
            answer=strip_annotations(row["answer"]).strip(),
        )
        for i, row in enumerate(rows)
    ]


GSM8K = Dataset(
    "gsm8k",
    bundled={"train": "gsm8k_train.jsonl", "test": "gsm8k_test.jsonl"},
    local={"train": "gsm8k/train.jsonl", "test": "gsm8k/test.jsonl"},
    examples=examples,
    items=items,
)
