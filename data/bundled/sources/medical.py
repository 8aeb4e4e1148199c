"""Fictional abstracts in the schema of PubMedQA (pqa_labeled): the question can be answered from the context.

No study, treatment effect or number in them is real. Contexts stay under 45 words.
"""

from __future__ import annotations

import json
import random
from typing import Any

from data.bundled.sources.text import HERE

# medical.json: design -> question, methods, yes, no and maybe (results), long (answer -> text), and the lists
# x (cause or treatment), y (outcome) and g (group). {n} people, {w} weeks or years, {hi} > {lo} percent,
# {hi2} at least 80 percent.
DESIGNS: dict[str, dict[str, Any]] = json.loads((HERE / "medical.json").read_text(encoding="utf-8"))
ANSWERS = ["yes"] * 10 + ["no"] * 7 + ["maybe"] * 3  # 50 / 35 / 15 percent
FIRST_ID = 90_000_001  # far above the published ids, so that bundled and real items never share one


def _fields(design: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    chosen = {key: rng.choice(design[key]) for key in ("x", "y", "g")}
    low = rng.randint(10, 35)
    upper = {key.upper(): text[0].upper() + text[1:] for key, text in chosen.items()}
    return {**chosen, **upper, "n": rng.randint(4, 60) * 10, "w": rng.randint(3, 12), "lo": low,
            "hi": low + rng.randint(18, 35), "hi2": rng.randint(80, 95)}  # fmt: skip


def abstract(answer: str, number: int, rng: random.Random) -> dict[str, Any]:
    """One row with the given final decision; `number` becomes the pubid."""
    design = DESIGNS[rng.choices(list(DESIGNS), weights=[4, 3, 2, 2])[0]]
    fields = _fields(design, rng)

    def written(key: str) -> str:
        text = str(rng.choice(design[key])).format(**fields)
        return text[0].upper() + text[1:]

    long_answer = design["long"][answer].format(**fields)
    return {
        "pubid": FIRST_ID + number,
        "question": written("question"),
        "context": {
            "contexts": [written("methods"), written(answer)],
            "labels": ["METHODS", "RESULTS"],
            "meshes": ["Humans"],
            "reasoning_required_pred": list(answer),
            "reasoning_free_pred": list(answer),
        },
        "long_answer": long_answer,
        "final_decision": answer,
    }


def abstracts(rng: random.Random, count: int, first: int, seen: set[str]) -> list[dict[str, Any]]:
    """`count` rows with the answers in the proportions of ANSWERS, shuffled; `seen` holds used questions."""
    answers = [ANSWERS[i % len(ANSWERS)] for i in range(count)]
    rng.shuffle(answers)
    rows: list[dict[str, Any]] = []
    while len(rows) < count:
        row = abstract(answers[len(rows)], first + len(rows), rng)
        key = row["question"].lower()
        if key not in seen:
            seen.add(key)
            rows.append(row)
    return rows
