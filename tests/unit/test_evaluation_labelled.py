"""The labelled replies, and how the fixed rules read those that they were not tuned on."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_run import write_run

from evaluation import labelled, results, soundness
from evaluation.benchmarks.pubmedqa import LABELS, parse
from evaluation.page import group_tables
from evaluation.report import build_report
from evaluation.statistics import wilson

PERMUTATIONS = [dict(zip(LABELS, order, strict=True)) for order in itertools.permutations(LABELS)]
TITLE = "Fixed rules on labelled replies that they were not tuned on"


def plain(text: str) -> str:
    return " ".join(text.lower().split())


def exchanged(text: str, into: dict[str, str]) -> str:
    """The text with yes, no and maybe exchanged for one another, each as it is capitalised."""

    def one(found: re.Match[str]) -> str:
        word = into[found[0].lower()]
        return word.upper() if found[0].isupper() else word.capitalize() if found[0][0].isupper() else word

    return re.sub(r"(?<![a-z])(?:yes|no|maybe)(?![a-z])", one, text, flags=re.IGNORECASE)


def test_refusals_are_many_and_of_many_kinds() -> None:
    rows = labelled.refusal_replies()
    assert len(rows) >= 320 and len({row.id for row in rows}) == len(rows)
    kinds = {kind: {row.label for row in rows if row.kind == kind} for kind in {row.kind for row in rows}}
    assert all(len(labels) == 1 for labels in kinds.values())
    assert all(15 <= count <= 45 for count in Counter(row.kind for row in rows).values())
    assert Counter(row.label for row in rows) == {"refusal": 180, "answer": 209}


def test_each_manner_of_answering_occurs_with_each_label() -> None:
    rows = labelled.answer_replies()
    assert len(rows) >= 300 and len({row.id for row in rows}) == len(rows)
    counts = Counter((row.kind, row.label) for row in rows)
    assert {label for _, label in counts} == {*LABELS, labelled.INVALID}
    for part in labelled.parts(rows):
        counts = Counter((row.kind, row.label) for row in part)
        for kind in {kind for kind, label in counts if label != labelled.INVALID}:
            assert len({counts[kind, label] for label in LABELS}) == 1 and not counts[kind, labelled.INVALID]


@pytest.mark.parametrize("read", [labelled.refusal_replies, labelled.answer_replies])
def test_the_parts_share_no_reply_and_hold_every_kind(read) -> None:
    rows = read()
    tuning, held_out = labelled.parts(rows)
    assert len(tuning) + len(held_out) == len(rows)
    assert not {plain(row.reply) for row in tuning} & {plain(row.reply) for row in held_out}
    assert {row.kind for row in tuning} == {row.kind for row in held_out}
    for kind in {row.kind for row in rows}:
        its = [row.id for row in rows if row.kind == kind]
        assert [row.id for row in tuning if row.kind == kind] == its[::2]
        assert [row.id for row in held_out if row.kind == kind] == its[1::2]


def test_refusals_that_the_phrases_were_not_tuned_on() -> None:
    """The rules of before read 66 of 90 refusals and 75 of 104 answers rightly."""
    found = labelled.held_out_refusals()
    assert (found.sensitivity.n, found.specificity.n) == (90, 104)
    assert found.sensitivity.k >= 72 and found.specificity.k >= 96
    assert (found.sensitivity.low, found.sensitivity.high) == wilson(found.sensitivity.k, 90)


def test_answers_that_the_rule_was_not_tuned_on() -> None:
    """The rule of before read 31 of the first 34 of each label rightly."""
    found = labelled.held_out_answers()
    assert [rate.n for rate in (found.yes, found.no, found.maybe, found.invalid)] == [38, 38, 38, 38]
    assert found.yes.k == found.no.k == found.maybe.k >= 35
    assert found.invalid.k >= 34


def test_rates_count_what_is_read_wrongly() -> None:
    refusal, answer = labelled.refusal_replies()[0], labelled.refusal_replies()[-1]
    rows = [
        labelled.LabelledRefusal("a", "", refusal.reply, "refusal", "x"),
        labelled.LabelledRefusal("b", "", answer.reply, "refusal", "x"),
        labelled.LabelledRefusal("c", "", "The capital is Canberra.", "answer", "x"),
    ]
    found = labelled.refusal_rates(rows)
    assert (found.sensitivity.k, found.sensitivity.n, found.specificity.value) == (1, 2, 1.0)
    answers = [
        labelled.LabelledAnswer("a", "yes", "yes", "x"),
        labelled.LabelledAnswer("b", "no", "yes", "x"),
        labelled.LabelledAnswer("c", "yes or no", "invalid", "x"),
    ]
    read = labelled.answer_rates(answers)
    assert (read.yes.k, read.yes.n, read.invalid.k, read.no.n) == (1, 2, 1, 0)


@pytest.mark.parametrize("into", PERMUTATIONS)
def test_no_is_read_wherever_yes_is(into) -> None:
    """Exchange the words and get the exchanged answer: the rule favours none of the three."""
    for row in labelled.answer_replies():
        answer = parse(row.reply)
        assert parse(exchanged(row.reply, into)) == into.get(answer, ""), row.id


WORDS = [
    *LABELS,
    "No",
    "YES",
    "Maybe",
    "Answer:",
    "the answer is",
    "not",
    "or",
    "and",
    "because",
    "it",
    "significant",
]
MARKS = [".", ",", "/", "(", ")", "**", "'", '"', r"\boxed{", "}", "(B)", "-", "–", "\n"]


@given(
    st.lists(st.sampled_from(WORDS + MARKS), max_size=8),
    st.sampled_from(PERMUTATIONS),
    st.sampled_from([" ", ""]),
)
@settings(max_examples=400, deadline=None)
def test_exchanged_words_are_read_alike_in_any_text(pieces, into, between) -> None:
    text = between.join(pieces)
    # Words that were glued to others are none.
    if re.search(r"[a-z](?:yes|no|maybe)|(?:yes|no|maybe)[a-z]", text, re.IGNORECASE):
        return
    assert parse(exchanged(text, into)) == into.get(parse(text), "")


def test_the_report_gives_the_rates_of_the_rules_that_the_run_used(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(
        "evaluation.report.draw", lambda groups, *_: ({i: {} for i in range(len(groups))}, [])
    )
    paths = [write_run(tmp_path / task, n=16, seeds=(0,), task=task) for task in ("gsm8k", "pubmedqa")]
    summary = build_report(paths, tmp_path / "report")
    read = {}
    for group in summary.groups:
        [table] = [table for _, tables in group_tables(group) for table in tables if table.title == TITLE]
        read[group.task] = [row[0] for row in table.rows]
    phrases, answer = ["Refusal phrases"] * 2, ["PubMedQA's answer"] * 4
    assert read == {"gsm8k": phrases, "pubmedqa": phrases + answer}
    found = labelled.held_out_refusals().sensitivity
    cell = f"({found.k}/{found.n})"
    markdown, page = ((tmp_path / "report" / name).read_text() for name in ("report.md", "report.html"))
    assert markdown.count(TITLE) == page.count(TITLE) == 2
    assert markdown.count(cell) >= 2 and page.count(cell) >= 2


def test_a_run_without_the_phrase_judge_says_nothing_of_it(tmp_path: Path) -> None:
    _, [entry] = results.load(write_run(tmp_path, n=16, seeds=(0,)))
    del entry.spec.judges["refusal"]
    assert soundness.rules([entry]) == []
