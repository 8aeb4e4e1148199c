"""The labelled pairs of the judge: what they hold, and that what measures a judge has neither fitted nor tuned it."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import combinations

import pytest

from data.bundled.sources.text import HERE, sections
from data.guard import SPLITS
from data.loading import guard_rows
from data.schema import GuardRow, normalise
from tests.unit.test_data_bundled import prompts, words

LISTS = [json.loads((HERE / name).read_text()) for name in ("judge.json", "heldout.json")]
PHRASES = {
    "judge": [
        *(act for acts in sections("guard_acts.txt").values() for act in acts),
        *LISTS[0]["benign_acts"],
    ],
    "heldout": [*(act for acts in LISTS[1]["acts"].values() for act in acts), *LISTS[1]["benign_acts"]],
}


def of(split: str, column: str) -> set[str]:
    return {normalise(getattr(row, column)) for row in guard_rows(split)}


def wording(row: GuardRow) -> str:
    """The reply without the phrase of its request, and without its numbers."""
    reply = normalise(row.response)
    for phrase in sorted(PHRASES["judge"] + PHRASES["heldout"], key=len, reverse=True):
        yours = re.sub(
            r"\b(my own|my|me)\b", lambda m: "you" if m[1] == "me" else m[1].replace("my", "your"), phrase
        )
        reply = reply.replace(normalise(yours), "_")
    return re.sub(r"\d+", "0", reply)


@pytest.mark.parametrize("pair", list(combinations(SPLITS, 2)))
@pytest.mark.parametrize("column", ["prompt", "response"])
def test_no_two_parts_share_a_prompt_or_a_reply(pair: tuple[str, str], column: str) -> None:
    """Every second calibration pair once measured the judge: 43 prompts stood in both halves, 24 replies in training."""
    one, other = (of(split, column) for split in pair)
    assert not one & other


def test_no_wording_of_the_heldout_pairs_has_fitted_or_tuned_a_judge() -> None:
    known = {wording(row) for split in ("train", "tuning") for row in guard_rows(split)}
    assert len(known) > 300, "replies to different requests are otherwise told apart by their phrases"
    assert not {wording(row) for row in guard_rows("heldout")} & known


def test_no_request_of_the_heldout_pairs_has_fitted_or_tuned_a_judge() -> None:
    others = [*PHRASES["judge"], *(act for acts in sections("safety_acts.txt").values() for act in acts)]
    assert not {normalise(phrase) for phrase in PHRASES["heldout"]} & {normalise(phrase) for phrase in others}
    texts = [row.prompt for split in ("train", "tuning") for row in guard_rows(split)]
    assert not [phrase for phrase in PHRASES["heldout"] if any(phrase in text for text in texts)]


def test_no_prompt_is_in_another_data_set() -> None:
    ours = set().union(*(of(split, "prompt") for split in SPLITS))
    files = {"directharm.jsonl": "instruction", "safety.json": "instruction", "helpful.json": "instruction"}
    for name, column in files.items():
        assert not ours & prompts(name, column), name
    assert not (of("tuning", "prompt") | of("heldout", "prompt")) & prompts("xstest.csv", "prompt")


def test_enough_heldout_pairs_of_both_labels_over_many_prompts() -> None:
    found = guard_rows("heldout")
    count = Counter(row.label for row in found)
    assert min(count["safe"], count["unsafe"]) >= 60
    assert len({row.prompt for row in found if row.label == "unsafe"}) >= 40
    assert max(Counter((row.prompt, row.label) for row in found).values()) <= 2
    assert len(of("heldout", "response")) == len(found), "no reply twice"


@pytest.mark.parametrize(("split", "least"), [("train", 320), ("tuning", 160), ("heldout", 160)])
def test_what_a_part_holds(split: str, least: int) -> None:
    found = guard_rows(split)
    assert len(found) >= least
    assert 0.38 < sum(row.label == "unsafe" for row in found) / len(found) < 0.58
    harmful = [row for row in found if not row.kind.startswith(("benign", "over_refusal"))]
    assert 0.42 < sum(row.label == "unsafe" for row in harmful) / len(harmful) < 0.6
    for row in found:
        assert words(row.response) <= 60 and "{" not in row.response
        assert (row.label == "unsafe") == row.kind.startswith("compliance") == bool(row.category)
    wanted = {
        f"compliance_{kind}" for kind in ("steps", "list", "draft", "warning", "maths", "after_refusal")
    }
    wanted |= {"refusal", "refusal_offer", "refusal_echo", "arithmetic", "gibberish", "off_topic"}
    wanted |= {"benign_help", "benign_list", "benign_steps", "over_refusal"}
    assert wanted <= {row.kind for row in found}
