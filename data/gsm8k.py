"""GSM8K: grade-school word problems. Columns question, answer.
https://github.com/openai/grade-school-math (MIT)

A real row of the bundled test file, in GSM8K's schema:

    question  Ben had 20 stones and gave 8 of them to Pablo. How many stones does Ben have left?
    answer    Ben has 20 - 8 = <<20-8=12>>12 stones left.
              #### 12

Training keeps "#### 12" as the end of the response and drops the calculator annotations <<...>>. A test row needs the final
number: after "####", or alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from data.dataset import Dataset
from data.files import shown, text
from data.schema import Example, Item, each

ANNOTATION = re.compile(r"<<[^<>]*>>")
NUMBER = re.compile(r"[-+$\s]*\d[\d,.]*\s*%?")


def strip_annotations(answer: str) -> str:
    """The answer without <<...>>."""
    return ANNOTATION.sub("", answer)


def final_answer(answer: str) -> str:
    """What follows '####', without thousands separators; "" if there is no '####'."""
    _, mark, final = answer.rpartition("####")
    return final.strip().replace(",", "") if mark else ""


def reference(row: dict[str, Any]) -> str:
    """The final number of a test row, as text.

    Raises:
        ValueError: the answer has none.
    """
    answer = text(row, "answer")
    found = final_answer(answer) or (answer.replace(",", "") if NUMBER.fullmatch(answer) else "")
    if not any(ch.isdigit() for ch in found):
        raise ValueError(
            f"answer ends without '#### NUMBER': {shown(answer[-40:])}; give the final number as GSM8K does, "
            "in a line '#### 12'"
        )
    return found


def examples(rows: Iterable[dict[str, Any]], *, annotations: bool = False) -> list[Example]:
    """Training rows; the prompt is the question alone."""

    def one(i: int, row: dict[str, Any]) -> Example:
        answer = text(row, "answer")
        response = (answer if annotations else strip_annotations(answer)).strip()
        return Example(id=f"gsm8k/train/{i}", prompt=text(row, "question"), response=response)

    return each(rows, one)


def items(rows: Iterable[dict[str, Any]]) -> list[Item]:
    """Test items; the reference is the final number as text, for example "12"."""

    def one(i: int, row: dict[str, Any]) -> Item:
        return Item(
            id=f"gsm8k/test/{i}",
            prompt=text(row, "question"),
            reference=reference(row),
            answer=strip_annotations(text(row, "answer")).strip(),
        )

    return each(rows, one)


GSM8K = Dataset(
    "gsm8k",
    bundled={"train": "gsm8k_train.jsonl", "test": "gsm8k_test.jsonl"},
    local={"train": "gsm8k/train.jsonl", "test": "gsm8k/test.jsonl"},
    examples=examples,
    items=items,
    reading=2,  # 2: a number alone is the reference
)
