"""Word problems in the schema of GSM8K: one or two steps, small numbers, one-sentence answers.

A template is (numbers, question, answer). `numbers` names a sampler of `SAMPLERS`, which gives a, b (and c) and the steps as
(left, sign, right, result). The answer's {1} and {2} become the calculator-annotated steps, for example "3 * 4 = <<3*4=12>>12".
"""

from __future__ import annotations

import random
from collections.abc import Callable

Step = tuple[int, str, int, int]
Numbers = tuple[tuple[int, ...], list[Step]]
Template = tuple[str, str, str]

PEOPLE = [
    (name, "she", "her")
    for name in [
        "Ada",
        "Anna",
        "Bella",
        "Clara",
        "Dora",
        "Ella",
        "Fatima",
        "Grace",
        "Hana",
        "Ines",
        "Julia",
        "Kira",
        "Lena",
        "Maya",
        "Nora",
        "Olga",
        "Priya",
        "Rosa",
        "Sara",
        "Tina",
        "Wendy",
    ]
]
PEOPLE += [
    (name, "he", "his")
    for name in [
        "Adam",
        "Ben",
        "Carlos",
        "David",
        "Emil",
        "Felix",
        "Gus",
        "Hugo",
        "Ivan",
        "Jack",
        "Kofi",
        "Liam",
        "Mark",
        "Noah",
        "Omar",
        "Pablo",
        "Ravi",
        "Sam",
        "Tom",
        "Victor",
        "Yusuf",
    ]
]
THINGS = [
    "apples",
    "pears",
    "plums",
    "lemons",
    "peaches",
    "marbles",
    "stickers",
    "stamps",
    "pencils",
    "crayons",
    "books",
    "cards",
    "coins",
    "shells",
    "buttons",
    "beads",
    "cookies",
    "muffins",
    "balloons",
    "flowers",
    "tomatoes",
    "carrots",
    "eggs",
    "stones",
    "leaves",
    "ribbons",
    "badges",
    "toys",
    "kites",
    "candles",
]
PLACES = ["market", "school fair", "farm", "corner shop", "park", "museum shop", "beach", "library sale"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"]
GROUPS = [
    ("box", "boxes"),
    ("bag", "bags"),
    ("basket", "baskets"),
    ("jar", "jars"),
    ("packet", "packets"),
    ("tray", "trays"),
]


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

ONE_STEP: list[Template] = [
    ("add", "{n} has {a} {o}. {m} gives {n} {b} more {o}. How many {o} does {n} have now?", "{n} has {1} {o}."),
    ("add", "On {d} {n} picked {a} {o} at the {p}, and later {he} picked {b} more. How many {o} did {n} pick?",
     "{n} picked {1} {o}."),
    ("add", "{n} read {a} pages on {d} and {b} pages the next day. How many pages did {n} read in all?",
     "{n} read {1} pages."),
    ("add", "There are {a} boys and {b} girls on a bus to the {p}. How many children are on the bus?",
     "There are {1} children on the bus."),
    ("add", "{n} is {a} years old. How old will {n} be in {b} years?", "{n} will be {1} years old."),
    ("add", "A shirt costs {a} dollars and a hat costs {b} dollars. How much does {n} pay for both?",
     "{n} pays {1} dollars."),
    ("add", "{n} ran {a} minutes before lunch and {b} minutes after lunch. How many minutes did {he} run?",
     "{n} ran {1} minutes."),
    ("sub", "{n} had {a} {o} and gave {b} of them to {m}. How many {o} does {n} have left?",
     "{n} has {1} {o} left."),
    ("sub", "A shop at the {p} had {a} {o} and sold {b} of them on {d}. How many {o} are left?",
     "There are {1} {o} left."),
    ("sub", "{n} baked {a} muffins for {his} friends. They ate {b} of them. How many muffins remain?",
     "There are {1} muffins left."),
    ("sub", "{n} has {a} {o} and {m} has {b} fewer. How many {o} does {m} have?", "{m} has {1} {o}."),
    ("sub", "{n} has {a} dollars and buys a book for {b} dollars. How many dollars does {he} keep?",
     "{n} keeps {1} dollars."),
    ("sub", "There were {a} birds in a tree near the {p}. Then {b} flew away. How many birds stayed?",
     "There are {1} birds left."),
    ("sub", "A ribbon is {a} inches long. {n} cuts off {b} inches. How long is the ribbon now?",
     "The ribbon is {1} inches long."),
    ("mul", "{n} buys {a} {g} of {o}. Each {g1} holds {b} {o}. How many {o} does {n} buy?", "{n} buys {1} {o}."),
    ("mul", "A ticket to the museum costs {b} dollars. {n} buys {a} tickets. How much does {he} spend?",
     "{n} spends {1} dollars."),
    ("mul", "{n} walks {b} miles every day. How many miles does {he} walk in {a} days?", "{n} walks {1} miles."),
    ("mul", "In a hall there are {a} rows with {b} chairs each. How many chairs are in the hall?",
     "There are {1} chairs."),
    ("mul", "{n} earns {b} dollars an hour at the {p}. How much does {he} earn in {a} hours?",
     "{n} earns {1} dollars."),
    ("mul", "A garden has {a} beds, and {n} plants {b} flowers in each bed. How many flowers does {n} plant?",
     "{n} plants {1} flowers."),
    ("div", "{n} shares {a} {o} equally among {b} friends. How many {o} does each friend get?",
     "Each friend gets {1} {o}."),
    ("div", "{n} puts {a} {o} into {b} {g} with the same number in each. How many {o} are in each {g1}?",
     "Each {g1} has {1} {o}."),
    ("div", "A rope of {a} feet is cut into {b} equal parts. How long is each part?", "Each part is {1} feet long."),
    ("div", "{n} paid {a} dollars for {b} tickets of the same price. How much was one ticket?",
     "One ticket was {1} dollars."),
]  # fmt: skip

TWO_STEP: list[Template] = [
    ("mul_add", "{n} has {a} {g} with {b} {o} each and {c} loose {o}. How many {o} does {n} have?",
     "The {g} hold {1} {o}, so {n} has {2} {o}."),
    ("mul_add", "{n} buys {a} pens for {b} dollars each and a bag for {c} dollars. How much does {he} pay?",
     "The pens cost {1} dollars, so {n} pays {2} dollars."),
    ("mul_sub", "{n} bought {a} {g} of {b} {o} and gave {c} {o} to {m}. How many {o} are left?",
     "{n} bought {1} {o}, so {2} {o} are left."),
    ("add_sub", "{n} had {a} {o}, found {b} more at the {p} and lost {c}. How many {o} does {n} have now?",
     "{n} had {1} {o}, and now {he} has {2} {o}."),
    ("add_sub", "A bus has {a} people. At the {p} {b} get on and {c} get off. How many people are on it?",
     "There were {1} people, and then {2} people."),
    ("sub_sub", "{n} had {a} dollars, spent {b} on food and {c} on a game. How many dollars are left?",
     "After the food {n} had {1} dollars, and then {2} dollars."),
    ("mul_sub", "{n} saves {b} dollars a week for {a} weeks and then spends {c} dollars. How much is left?",
     "{n} saved {1} dollars, so {2} dollars are left."),
]  # fmt: skip

# Only in the test file, as its last rows: they show whether the skill carries over to new wordings.
HELD_OUT: list[Template] = [
    ("add", "A farmer counted {a} sheep in one field and {b} sheep in another. How many sheep did the farmer count?",
     "The farmer counted {1} sheep."),
    ("add", "{m} scored {a} points and {n} scored {b} more than {m}. How many points did {n} score?",
     "{n} scored {1} points."),
    ("sub", "A tank held {a} litres of water until {b} litres leaked out. How many litres are still in the tank?",
     "The tank has {1} litres."),
    ("sub", "{n} needs {a} {o} for a project and already has {b}. How many more {o} does {he} need?",
     "{n} needs {1} more {o}."),
    ("mul", "Every spider in the {p} toy set has {b} legs. {n} owns {a} of them. How many legs is that?",
     "There are {1} legs."),
    ("div", "A teacher splits {a} pupils into teams of {b}. How many teams are there?", "There are {1} teams."),
    ("mul_add", "{n} sets {a} tables with {b} plates each and keeps {c} plates spare. How many plates are there?",
     "The tables have {1} plates, so there are {2} plates."),
    ("add_sub", "{n} sold {a} {o} on {d} and {b} the next day, but {c} were returned. How many were sold in the end?",
     "{n} sold {1} {o}, so {2} were sold in the end."),
]  # fmt: skip


def _annotated(step: Step) -> str:
    left, sign, right, result = step
    return f"{left} {sign} {right} = <<{left}{sign}{right}={result}>>{result}"


def problem(template: Template, rng: random.Random) -> dict[str, str]:
    """One row {question, answer} of the template, with names, objects and numbers drawn from `rng`."""
    kind, question, sentence = template
    numbers, steps = SAMPLERS[kind](rng)
    (name, he, his), (other, _, _) = rng.sample(PEOPLE, 2)
    group, groups = rng.choice(GROUPS)
    fields = {"n": name, "he": he, "his": his, "m": other, "o": rng.choice(THINGS), "p": rng.choice(PLACES),
              "d": rng.choice(DAYS), "g": groups, "g1": group, **dict(zip("abc", numbers, strict=False))}  # fmt: skip
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
