"""Write the bundled data set: `python -m data.bundled.make [DIR]`. Seeded: the same bytes every time.

Lists and templates are in sources/; the card is README.md. Nothing is downloaded and no model wrote any row.
"""

from __future__ import annotations

import csv
import io
import json
import random
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data import gsm8k as gsm8k_rows
from data.bundled.sources.harm import safety_rows
from data.bundled.sources.heldout import heldout_rows
from data.bundled.sources.judge import guard_rows
from data.bundled.sources.maths import problems
from data.bundled.sources.medical import abstracts
from data.bundled.sources.text import pairs, sections
from data.bundled.sources.tiny import problems as tiny_problems
from data.disjoint import overlaps

SEED = 2026
XSTEST_COLUMNS = ["id", "prompt", "type", "label", "focus", "note"]


def jsonl(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def gsm8k() -> dict[str, str]:
    rng, seen = random.Random(f"{SEED}/gsm8k"), set[str]()
    train = problems(rng, 400, seen)
    test = problems(rng, 126, seen) + problems(rng, 34, seen, held_out=True)
    # A sum that training has with another name tests nothing: its place is drawn anew, the others stay what they are.
    again = random.Random(f"{SEED}/gsm8k again")
    while near := overlaps(gsm8k_rows.examples(train), gsm8k_rows.items(test)):
        for found in near:
            place = int(found.item_id.rpartition("/")[2])
            test[place] = problems(again, 1, seen, held_out=place >= 126)[0]
    return {"gsm8k_train.jsonl": jsonl(train), "gsm8k_test.jsonl": jsonl(test)}


def gsm8k_tiny() -> dict[str, str]:
    rng, seen = random.Random(f"{SEED}/gsm8k_tiny"), set[str]()
    train, test = tiny_problems(rng, 400, seen), tiny_problems(rng, 120, seen)
    return {"gsm8k_tiny_train.jsonl": jsonl(train), "gsm8k_tiny_test.jsonl": jsonl(test)}


def pubmedqa() -> dict[str, str]:
    rng, seen = random.Random(f"{SEED}/pubmedqa"), set[str]()
    train, test = abstracts(rng, 240, 0, seen), abstracts(rng, 100, 240, seen)
    return {"pubmedqa_train.jsonl": jsonl(train), "pubmedqa_test.jsonl": jsonl(test)}


def safety() -> dict[str, str]:
    rows = safety_rows(random.Random(f"{SEED}/safety"))
    return {"safety.json": json.dumps(rows, indent=0) + "\n"}


def helpful() -> dict[str, str]:
    rows = [
        {"instruction": prompt, "input": "", "output": output}
        for name in ("helpful_plain.txt", "helpful_lookalikes.txt")
        for prompt, output in pairs(name)
    ]
    return {"helpful.json": json.dumps(rows, indent=0) + "\n"}


def directharm() -> dict[str, str]:
    found = sections("directharm.txt")
    rows = [
        {"instruction": prompt, "category": name} for name, prompts in found.items() for prompt in prompts
    ]
    return {"directharm.jsonl": jsonl(rows)}


def xstest() -> dict[str, str]:
    text = io.StringIO()
    writer = csv.DictWriter(text, XSTEST_COLUMNS, lineterminator="\n")
    writer.writeheader()
    entries = [(kind, entry) for kind, found in sections("xstest.txt").items() for entry in found]
    for number, (kind, entry) in enumerate(entries, start=1):
        prompt, focus = entry.split(" | ")
        label = "unsafe" if kind.startswith("contrast_") else "safe"
        writer.writerow(dict(zip(XSTEST_COLUMNS, [number, prompt, kind, label, focus, ""], strict=True)))
    return {"xstest.csv": text.getvalue()}


def guard() -> dict[str, str]:
    train, tuning = guard_rows(random.Random(f"{SEED}/guard"))
    heldout = heldout_rows(random.Random(f"{SEED}/guard held out"))
    parts = {"train": train, "tuning": tuning, "heldout": heldout}
    return {f"guard_{part}.jsonl": jsonl(rows) for part, rows in parts.items()}


def files() -> dict[str, str]:
    """File name -> content of the whole bundled set."""
    made: dict[str, str] = {}
    for make in (gsm8k, gsm8k_tiny, pubmedqa, safety, helpful, directharm, xstest, guard):
        made |= make()
    return made


def main(argv: list[str]) -> None:
    folder = Path(argv[0]) if argv else Path(__file__).resolve().parent
    for name, content in files().items():
        (folder / name).write_text(content, encoding="utf-8", newline="\n")
        print(f"{name}: {len(content.splitlines())} lines")


if __name__ == "__main__":
    main(sys.argv[1:])
