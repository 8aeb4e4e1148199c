"""PubMedQA, labelled part: is the answer to a research question yes, no or maybe?
https://github.com/pubmedqa/pubmedqa (MIT)

A real row of the bundled training file, in the schema of qiaojin/PubMedQA, pqa_labeled
(meshes and predictions left out):

    question        Is poor sleep associated with tooth loss in students?
    context         {"contexts": ["We followed 390 students for 11 years.", "The risk of tooth loss was twice
                    as high with poor sleep, also after adjustment."], "labels": ["METHODS", "RESULTS"], ...}
    long_answer     Poor sleep is associated with tooth loss in students.
    final_decision  yes

The hub publishes the 1000 labelled rows as one split, "train". The authors' split is a list of 500 pubids,
data/test_ground_truth.json in their repository: a row whose pubid is in the list is a test row, every other
row is a training row. `pubmedqa_test_ids.txt` beside this file holds these ids, and `split` applies the rule.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data.dataset import Dataset, Place
from data.schema import Example, Item
from safemerge.errors import UserError

TEST_IDS = Path(__file__).with_name("pubmedqa_test_ids.txt")
DECISIONS = ("yes", "no", "maybe")
QUESTION = "{context}\n\nQuestion: {question}\nAnswer yes, no or maybe."


def test_ids(path: str | Path | None = None) -> frozenset[str]:
    """The official test pubids, from our list or from `path` (one id a line, or the authors' JSON object)."""
    path = Path(path or TEST_IDS)
    if not path.is_file():
        raise UserError(
            f"the list of PubMedQA's test ids is missing: {path}; "
            "take data/test_ground_truth.json of github.com/pubmedqa/pubmedqa"
        )
    text = path.read_text(encoding="utf-8")
    return frozenset(json.loads(text) if path.suffix == ".json" else text.split())


def split(rows: Iterable[dict[str, Any]], name: str, ids: frozenset[str]) -> list[dict[str, Any]]:
    """The rows of the official split "train" or "test" among `rows`, in their order."""
    return [row for row in rows if (str(row["pubid"]) in ids) == (name == "test")]


def prompt(row: dict[str, Any]) -> str:
    """The abstract (without its conclusion) and then the question."""
    return QUESTION.format(context=" ".join(row["context"]["contexts"]), question=row["question"].strip())


def decision(row: dict[str, Any]) -> str:
    """The final decision; anything but yes, no or maybe is an error of the file."""
    answer = str(row["final_decision"]).strip().lower()
    if answer not in DECISIONS:
        raise UserError(
            f"PubMedQA row {row['pubid']} has final_decision {answer!r}; use one of {', '.join(DECISIONS)}"
        )
    return answer


def examples(rows: Iterable[dict[str, Any]], *, long_answer: bool = False) -> list[Example]:
    """Training rows; the response is the decision, after the long answer on request. Ids hold the pubid."""
    return [
        Example(
            id=f"pubmedqa/{row['pubid']}",
            prompt=prompt(row),
            response=f"{row['long_answer']}\n{decision(row)}" if long_answer else decision(row),
        )
        for row in rows
    ]


def items(rows: Iterable[dict[str, Any]]) -> list[Item]:
    """Test items; the reference is yes, no or maybe. Ids hold the pubid, so a leak shows by id."""
    return [
        Item(
            id=f"pubmedqa/{row['pubid']}",
            prompt=prompt(row),
            reference=decision(row),
            answer=decision(row),
        )
        for row in rows
    ]


def _of_hub(rows: list[dict[str, Any]], name: str, place: Place) -> list[dict[str, Any]]:
    return split(rows, name, test_ids(place.get("test_ids")))


def _hub_content(place: Place) -> str:
    return hashlib.sha256(repr(sorted(test_ids(place.get("test_ids")))).encode()).hexdigest()


PUBMEDQA = Dataset(
    "pubmedqa",
    bundled={"train": "pubmedqa_train.jsonl", "test": "pubmedqa_test.jsonl"},
    local={"train": "pubmedqa/train.jsonl", "test": "pubmedqa/test.jsonl"},
    examples=examples,
    items=items,
    hub_split={"test": "train"},
    of_hub=_of_hub,
    hub_content=_hub_content,
)
