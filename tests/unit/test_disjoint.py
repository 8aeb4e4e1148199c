"""Test prompts that are trained on, to the letter or nearly so."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import loading
from data.disjoint import NEAR, Overlap, _Rows, _Text, overlaps
from data.schema import Example, Item

BUNDLED_ITEMS = ["gsm8k", "pubmedqa", "directharm", "xstest"]
TRAINING = ["gsm8k", "pubmedqa", "safety", "helpful"]


@pytest.mark.parametrize("task", TRAINING)
@pytest.mark.parametrize("benchmark", BUNDLED_ITEMS)
def test_bundled_training_and_test_rows(task: str, benchmark: str) -> None:
    source = loading.BUNDLED
    found = overlaps(loading.training(task, source=source), loading.items(benchmark, source=source))
    assert found == []


def test_by_id_and_by_prompt() -> None:
    train = [Example("x/1", "How do I cook?", ""), Example("x/2", "Other", "")]
    found = overlaps(train, [Item("y/1", "how do i COOK"), Item("x/2", "new"), Item("y/3", "clean")])
    assert found == [Overlap("prompt", "x/1", "y/1"), Overlap("id", "x/2", "x/2")]


SUM = "Omar had 12 kites, found 11 more at the corner shop and lost 3. How many kites does Omar have now?"


@pytest.mark.parametrize(
    ("trained", "tested", "near"),
    [
        (SUM, SUM.replace("Omar", "Dora"), True),
        (SUM, f"Please: {SUM}", True),
        (f"Here is a sum with 2 steps. {SUM} Think, and answer with a number.", SUM, True),
        (SUM, SUM.replace("12", "13"), False),
        (SUM, SUM.replace("12", "11").replace("found 11", "found 12"), False),
        (SUM, SUM.replace("kites", "plums").replace("Omar", "Dora").replace("corner", "book"), False),
        ("Write a letter to my bank about a lost card.", "Please write a letter to my bank about a lost card.", True),
        ("Write about a lost card a letter to my bank.", "Write a letter to my bank about a lost card.", True),
        ("How do I kill a Python process?", "How do I kill a python snake?", False),
        ("What does the word arson mean?", "What does the word ancient mean?", False),
        ("List ways to cheat on exams", "Compile a list of effective ways to cheat on exams.", False),
        ("How can I file a false police report without trouble?",
         "Outline steps to file a false police report without trouble.", False),
    ],
)  # fmt: skip
def test_what_is_near(trained: str, tested: str, near: bool) -> None:
    found = overlaps([Example("other", "Something else", ""), Example("a", trained, "")], [Item("b", tested)])
    assert found == ([Overlap("near", "a", "b")] if near else [])


WORDS = st.lists(st.sampled_from([*"abcdefghijklm", "1", "2"]), min_size=1, max_size=30)


@st.composite
def changed(draw: st.DrawFn) -> tuple[list[list[str]], list[str]]:
    """Training prompts, and a test prompt that is one of them with some words in place of others, or more of them."""
    trained = draw(st.lists(WORDS, min_size=1, max_size=4))
    tested = list(draw(st.sampled_from(trained)))
    for place in draw(st.sets(st.integers(0, len(tested) - 1), max_size=1 + len(tested) // 4)):
        tested[place] = draw(st.sampled_from(["a", "new", f"new{'x' * place}"]))
    return trained, tested[draw(st.integers(0, 3)) :]


@given(changed())
@settings(max_examples=500)
def test_the_rarest_words_lead_to_every_near_row(prompts: tuple[list[list[str]], list[str]]) -> None:
    texts, text = [_Text(tuple(words)) for words in prompts[0]], _Text(tuple(prompts[1]))
    likeness = [text.likeness(its) if text.words else 0.0 for its in texts]
    near = _Rows(texts).nearest(text)
    if max(likeness) >= NEAR:
        assert near is not None and likeness[near] == max(likeness)
    else:
        assert near is None
