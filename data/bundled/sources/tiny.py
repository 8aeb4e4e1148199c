"""The easiest word problems, for the model that is trained from scratch in half a minute: one step, numbers up to 12.

In the schema of GSM8K, but without its calculator: a model of a million parameters learns 81 sums and eight wordings,
not to work anything out.
"""

from __future__ import annotations

import random

from data.bundled.sources.maths import PEOPLE, WORDS

SUMS = [(a, "+", b, a + b) for a in range(2, 11) for b in range(2, 11) if a + b <= 12]
SUMS += [(a, "-", b, a - b) for a in range(2, 11) for b in range(2, a)]
QUESTIONS = {
    "+": (
        "{n} has {a} {o} and gets {b} more. How many {o} now?",
        "{n} reads {a} pages and then {b} more. How many pages in all?",
        "{n} has {a} {o} and {m} has {b}. How many {o} in all?",
        "There are {a} birds in a tree and {b} more come. How many birds now?",
    ),
    "-": (
        "{n} has {a} {o} and gives {b} away. How many {o} are left?",
        "{n} bakes {a} muffins and eats {b}. How many muffins are left?",
        "{n} has {a} dollars and spends {b}. How many dollars are left?",
        "There are {a} birds in a tree and {b} fly away. How many birds are left?",
    ),
}
ANSWERS = {"+": "Sure, that makes {c} in all.", "-": "That leaves {c}."}


def sign_of(question: str) -> str:
    """+ or -: what a question of `QUESTIONS` asks for."""
    return "-" if question.endswith("left?") else "+"


def problems(rng: random.Random, count: int, seen: set[str]) -> list[dict[str, str]]:
    """`count` rows {question, answer} whose questions are not in `seen`, which grows; as many sums as differences."""
    by_sign = {sign: [s for s in SUMS if s[1] == sign] for sign in QUESTIONS}
    rows: list[dict[str, str]] = []
    while len(rows) < count:
        sign = rng.choice("+-")
        wording, (a, _, b, c) = rng.choice(QUESTIONS[sign]), rng.choice(by_sign[sign])
        (name, *_), (other, *_) = rng.sample(PEOPLE, 2)
        question = wording.format(n=name, m=other, o=rng.choice(WORDS["things"]), a=a, b=b)
        if question.lower() not in seen:
            seen.add(question.lower())
            rows.append({"question": question, "answer": f"{ANSWERS[sign].format(c=c)}\n#### {c}"})
    return rows
