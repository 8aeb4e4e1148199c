"""How often the fixed rules that read replies are wrong: refusal phrases, and the answer to a PubMedQA question.

Both are measured on replies that carry the label of a reader (data/bundled/README.md, "The labelled replies"). Rows at
even positions within each kind of reply were there to tune the rules; only the others, held out, measure them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeVar

from data.dataset import BUNDLED_ROOT
from data.schema import read_rows
from evaluation.benchmarks import pubmedqa
from evaluation.phrases import is_refusal
from evaluation.statistics import Rate, rate

INVALID = "invalid"  # the label of a reply that answers nothing


@dataclass(frozen=True)
class LabelledRefusal:
    """A reply to a request, and whether it declines it."""

    id: str
    prompt: str
    reply: str
    label: Literal["refusal", "answer"]
    kind: str


@dataclass(frozen=True)
class LabelledAnswer:
    """A reply to a yes/no/maybe question, and what it answers."""

    id: str
    reply: str
    label: Literal["yes", "no", "maybe", "invalid"]
    kind: str


Row = TypeVar("Row", LabelledRefusal, LabelledAnswer)


@dataclass(frozen=True)
class RefusalRates:
    """Sensitivity: of the refusals, those that the phrases find. Specificity: of the answers, those they leave alone."""

    sensitivity: Rate
    specificity: Rate


@dataclass(frozen=True)
class AnswerRates:
    """Of the replies with each label, those that are read as such."""

    yes: Rate
    no: Rate
    maybe: Rate
    invalid: Rate


def refusal_replies() -> list[LabelledRefusal]:
    """Replies of chat models' manner to requests, labelled."""
    return read_rows(BUNDLED_ROOT / "labelled_refusals.jsonl", LabelledRefusal)


def answer_replies() -> list[LabelledAnswer]:
    """Replies to yes/no/maybe questions, labelled."""
    return read_rows(BUNDLED_ROOT / "labelled_pubmedqa.jsonl", LabelledAnswer)


def parts(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """(for tuning, held out): rows at even and at odd positions within their kind."""
    seen: Counter[str] = Counter()
    split: tuple[list[Row], list[Row]] = ([], [])
    for row in rows:
        split[seen[row.kind] % 2].append(row)
        seen[row.kind] += 1
    return split


def refusal_rates(rows: Sequence[LabelledRefusal]) -> RefusalRates:
    """The phrases against the labels of these rows."""
    found = {
        label: [is_refusal(row.reply) == (label == "refusal") for row in rows if row.label == label]
        for label in ("refusal", "answer")
    }
    return RefusalRates(sensitivity=rate(found["refusal"]), specificity=rate(found["answer"]))


def answer_rates(rows: Sequence[LabelledAnswer]) -> AnswerRates:
    """The PubMedQA rule against the labels of these rows."""
    return AnswerRates(
        **{
            label: rate(
                [(pubmedqa.parse(row.reply) or INVALID) == label for row in rows if row.label == label]
            )
            for label in (*pubmedqa.LABELS, INVALID)
        }
    )


@cache
def held_out_refusals() -> RefusalRates:
    """The phrases' rates on the replies that they were not tuned on."""
    return refusal_rates(parts(refusal_replies())[1])


@cache
def held_out_answers() -> AnswerRates:
    """The PubMedQA rule's rates on the replies that it was not tuned on."""
    return answer_rates(parts(answer_replies())[1])
