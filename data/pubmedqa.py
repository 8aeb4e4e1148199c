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
row is a training row. `pubmedqa_test_ids.txt` beside this file holds these ids, and `split` applies the rule: to the hub's
rows, and to a file of one's own that is given for both splits.

The authors' own release (ori_pqal.json) is one object: pubid -> row, with QUESTION, CONTEXTS, LABELS, LONG_ANSWER,
final_decision. It is read as well, and so are abstracts that are one text or a list of texts instead of an object.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data.dataset import Dataset, Place
from data.files import shown, text, text_of
from data.schema import Example, Item, each
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
    content = text_of(path)
    try:
        found = json.loads(content) if path.suffix == ".json" else content.split()
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}; give an object or a list of test ids") from error
    if not isinstance(found, list | dict):
        raise UserError(f"{path} holds {shown(found)}; give an object or a list of test ids")
    return frozenset(map(str, found))


def split(rows: Iterable[dict[str, Any]], name: str, ids: frozenset[str]) -> list[dict[str, Any]]:
    """The rows of the official split "train" or "test" among `rows`, in their order."""
    return [row for row in rows if (str(row.get("pubid")) in ids) == (name == "test")]


#: The columns as the authors' release spells them -> as the hub does.
RELEASE = {"QUESTION": "question", "LONG_ANSWER": "long_answer", "CONTEXTS": "context"}


def as_on_hub(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the hub's column names, in whichever of the two spellings it came, and its pubid as text.

    Raises:
        ValueError: the pubid is neither number nor text.
    """
    pubid = row["pubid"]
    if not isinstance(pubid, int | str) or not str(pubid).strip():
        raise ValueError(f"pubid is {shown(pubid)}, neither a number nor a text")
    return {**{RELEASE.get(name, name): value for name, value in row.items()}, "pubid": str(pubid).strip()}


def of_release(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the authors' release: pubid -> row."""
    wrong = [key for key, row in found.items() if not isinstance(row, dict)]
    if wrong:
        raise UserError(
            f"PubMedQA as one object is pubid -> row, and {wrong[0]} is {shown(found[wrong[0]])}; "
            "give ori_pqal.json, or rows in the hub's schema"
        )
    return [{"pubid": pubid, **row} for pubid, row in found.items()]


def abstract(row: dict[str, Any]) -> str:
    """The abstract without its conclusion: an object of `contexts`, a list of texts, or one text.

    Raises:
        ValueError: something else.
    """
    found = row["context"]
    if isinstance(found, dict):
        found = found["contexts"]
    parts = [found] if isinstance(found, str) else found
    if not isinstance(parts, list) or not parts:
        raise ValueError(f"context is {shown(found)}, not the texts of an abstract")
    if isinstance(found, str) and found.lstrip().startswith(("{'contexts'", '{"contexts"')):
        raise ValueError(f"context is an object printed as a text, {shown(found)}: give the object itself")
    return " ".join(text({"context": part}, "context") for part in parts)


def prompt(row: dict[str, Any]) -> str:
    """The abstract (without its conclusion) and then the question."""
    return QUESTION.format(context=abstract(row), question=text(row, "question"))


def decision(row: dict[str, Any]) -> str:
    """The final decision; anything but yes, no or maybe is an error of the file."""
    answer = str(row["final_decision"]).strip().lower()
    if answer not in DECISIONS:
        raise ValueError(
            f"PubMedQA row {row['pubid']} has final_decision {answer!r}; use one of {', '.join(DECISIONS)}"
        )
    return answer


def examples(rows: Iterable[dict[str, Any]], *, long_answer: bool = False) -> list[Example]:
    """Training rows; the response is the decision, after the long answer on request. Ids hold the pubid."""

    def one(_: int, row: dict[str, Any]) -> Example:
        row = as_on_hub(row)
        response = f"{text(row, 'long_answer')}\n{decision(row)}" if long_answer else decision(row)
        return Example(id=f"pubmedqa/{row['pubid']}", prompt=prompt(row), response=response)

    return each(rows, one)


def items(rows: Iterable[dict[str, Any]]) -> list[Item]:
    """Test items; the reference is yes, no or maybe. Ids hold the pubid, so a leak shows by id."""

    def one(_: int, row: dict[str, Any]) -> Item:
        row = as_on_hub(row)
        answer = decision(row)
        return Item(id=f"pubmedqa/{row['pubid']}", prompt=prompt(row), reference=answer, answer=answer)

    return each(rows, one)


def _divided(rows: list[dict[str, Any]], name: str, place: Place) -> list[dict[str, Any]]:
    return split(rows, name, test_ids(place.get("test_ids")))


def _division(place: Place) -> str:
    return hashlib.sha256(repr(sorted(test_ids(place.get("test_ids")))).encode()).hexdigest()


PUBMEDQA = Dataset(
    "pubmedqa",
    bundled={"train": "pubmedqa_train.jsonl", "test": "pubmedqa_test.jsonl"},
    local={"train": "pubmedqa/train.jsonl", "test": "pubmedqa/test.jsonl"},
    examples=examples,
    items=items,
    hub_split={"test": "train"},
    of_object=of_release,
    divided=_divided,
    division=_division,
    reading=2,  # 2: an abstract that is one text
)
