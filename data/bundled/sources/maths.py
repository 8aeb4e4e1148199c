"""Word problems in the schema of GSM8K: one or two steps, small numbers, one-sentence answers.

A template of maths.txt is (numbers, question, answer). `numbers` names a sampler of SAMPLERS, which gives
a, b (and c) and the steps as (left, sign, right, result). The answer's {1} and {2} become the steps with
calculator annotations, for example "3 * 4 = <<3*4=12>>12".
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from data.bundled.sources.text import HERE, sections

Step = tuple[int, str, int, int]
Numbers = tuple[tuple[int, ...], list[Step]]
Template = tuple[str, str, str]


def _templates(section: str) -> list[Template]:
    split = (line.split(" | ") for line in sections("maths.txt")[section])
    return [(kind, question, answer) for kind, question, answer in split]


ONE_STEP, TWO_STEP = _templates("one_step"), _templates("two_step")
# Only in the test file, as its last rows: they show whether the skill carries over to new wordings.
HELD_OUT = _templates("held_out")

WORDS = json.loads((HERE / "maths_words.json").read_text(encoding="utf-8"))
PEOPLE = [(name, "she", "her") for name in WORDS["women"]] + [(name, "he", "his") for name in WORDS["men"]]
GROUPS = list(WORDS["groups"].items())


def _add(rng: random.Random) -> Numbers:
    a, b = rng.randint(2, 30), rng.randint(2, 28)
    return (a, b), [(a, "+", b, a + b)]


def _sub(rng: random.Random) -> Numbers:
    a = rng.randint(6, 50)
    b = rng.randint(2, a - 2)
    return (a, b), [(a, "-", b, a - b)]


def _mul(rng: random.Random) -> Numbers:
    a, b = rng.randint(2, 10), rng.randint(2, 10)
    return (a, b), [(a, "*", b, a * b)]


def _div(rng: random.Random) -> Numbers:
    b, r = rng.randint(2, 10), rng.randint(2, 10)
    return (b * r, b), [(b * r, "/", b, r)]


def _mul_add(rng: random.Random) -> Numbers:
    a, b, c = rng.randint(2, 6), rng.randint(2, 7), rng.randint(2, 9)
    return (a, b, c), [(a, "*", b, a * b), (a * b, "+", c, a * b + c)]


def _mul_sub(rng: random.Random) -> Numbers:
    a, b = rng.randint(2, 6), rng.randint(3, 8)
    c = rng.randint(2, a * b - 2)
    return (a, b, c), [(a, "*", b, a * b), (a * b, "-", c, a * b - c)]


def _add_sub(rng: random.Random) -> Numbers:
    a, b = rng.randint(4, 20), rng.randint(3, 20)
    c = rng.randint(2, a + b - 2)
    return (a, b, c), [(a, "+", b, a + b), (a + b, "-", c, a + b - c)]


def _sub_sub(rng: random.Random) -> Numbers:
    a = rng.randint(14, 45)
    b = rng.randint(2, a - 8)
    c = rng.randint(2, a - b - 2)
    return (a, b, c), [(a, "-", b, a - b), (a - b, "-", c, a - b - c)]


SAMPLERS: dict[str, Callable[[random.Random], Numbers]] = {
    "add": _add, "sub": _sub, "mul": _mul, "div": _div,
    "mul_add": _mul_add, "mul_sub": _mul_sub, "add_sub": _add_sub, "sub_sub": _sub_sub,
}  # fmt: skip


def _annotated(step: Step) -> str:
    left, sign, right, result = step
    return f"{left} {sign} {right} = <<{left}{sign}{right}={result}>>{result}"


def problem(template: Template, rng: random.Random) -> dict[str, str]:
    """One row {question, answer} of the template, with names, objects and numbers drawn from `rng`."""
    kind, question, sentence = template
    numbers, steps = SAMPLERS[kind](rng)
    (name, he, his), (other, _, _) = rng.sample(PEOPLE, 2)
    group, groups = rng.choice(GROUPS)
    drawn = {
        "o": rng.choice(WORDS["things"]),
        "p": rng.choice(WORDS["places"]),
        "d": rng.choice(WORDS["days"]),
    }
    people = {"n": name, "he": he, "his": his, "m": other}
    fields = {**people, **drawn, "g": groups, "g1": group, **dict(zip("abc", numbers, strict=False))}
    written = sentence.replace("{1}", _annotated(steps[0])).replace("{2}", _annotated(steps[-1]))
    return {
        "question": question.format(**fields),
        "answer": f"{written.format(**fields)}\n#### {steps[-1][3]}",
    }


def problems(rng: random.Random, count: int, seen: set[str], held_out: bool = False) -> list[dict[str, str]]:
    """`count` different problems (a quarter of two steps) whose questions are not in `seen`, which grows."""
    rows: list[dict[str, str]] = []
    while len(rows) < count:
        pool = HELD_OUT if held_out else TWO_STEP if rng.random() < 0.25 else ONE_STEP
        row = problem(rng.choice(pool), rng)
        key = row["question"].lower()
        if key not in seen:
            seen.add(key)
            rows.append(row)
    return rows
