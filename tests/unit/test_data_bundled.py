"""The bundled files hold what their card promises."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from data.bundled import make
from data.bundled.sources import maths
from data.gsm8k import final_answer, strip_annotations
from data.schema import normalise, read_jsonl

FOLDER = Path(make.__file__).parent
KEPT_BY_HAND = {*FOLDER.glob("labelled_*.jsonl")}  # curly quotes and other typography are their point


def rows(name: str) -> list[dict]:
    path = FOLDER / name
    if name.endswith(".jsonl"):
        return read_jsonl(path)
    if name.endswith(".csv"):
        return list(csv.DictReader(path.open(encoding="utf-8")))
    return json.loads(path.read_text(encoding="utf-8"))


def words(text: str) -> int:
    return len(text.split())


def grams(text: str, n: int = 6) -> set[tuple[str, ...]]:
    found = normalise(text).split()
    return {tuple(found[i : i + n]) for i in range(len(found) - n + 1)}


def prompts(name: str, column: str) -> set[str]:
    return {normalise(row[column]) for row in rows(name)}


def test_make_rewrites_the_files_byte_for_byte(tmp_path: Path) -> None:
    make.main([str(tmp_path)])
    made = sorted(path.name for path in tmp_path.iterdir())
    kept = sorted(
        p.name for p in FOLDER.iterdir() if p.suffix in (".jsonl", ".json", ".csv") and p not in KEPT_BY_HAND
    )
    assert made == kept
    for name in made:
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes(), (
            f"{name}: run python -m data.bundled.make"
        )


@pytest.mark.parametrize(
    "path",
    sorted({*FOLDER.glob("*.jsonl")} - KEPT_BY_HAND)
    + [FOLDER / n for n in ("safety.json", "helpful.json", "xstest.csv")],
)
def test_plain_ascii(path: Path) -> None:
    assert "\\u" not in path.read_text(encoding="ascii")


def test_card_names_the_row_counts() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for line in [line for line in card.splitlines() if line.startswith("| `")]:
        names, counts = (cell.strip() for cell in line.split("|")[1:3])
        for name, count in zip(re.findall(r"`([^`]+)`", names), counts.split(", "), strict=True):
            assert len(rows(name)) == int(count), name


def test_gsm8k() -> None:
    train, test = rows("gsm8k_train.jsonl"), rows("gsm8k_test.jsonl")
    assert (len(train), len(test)) == (400, 160)
    questions = [normalise(row["question"]) for row in train + test]
    assert len(set(questions)) == len(questions)
    two_steps = 0
    for row in train + test:
        steps = re.findall(r"<<(\d+)([-+*/])(\d+)=(\d+)>>(\d+)", row["answer"])
        for left, sign, right, result, shown in steps:
            a, b = int(left), int(right)
            value = {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[sign]
            assert value == int(result) == int(shown)
            assert value <= (100 if sign == "*" else 59)
        assert steps[-1][3] == final_answer(row["answer"])
        two_steps += len(steps) == 2
        assert words(row["question"]) <= 35
        assert words(strip_annotations(row["answer"])) <= 26
    assert 0.15 < two_steps / 520 < 0.35
    assert sum(words(row["question"]) for row in train) / len(train) <= 22
    assert len(maths.ONE_STEP) + len(maths.TWO_STEP) >= 25
    assert not {t[1] for t in maths.HELD_OUT} & {t[1] for t in maths.ONE_STEP + maths.TWO_STEP}
    assert not [row for row in train if "leaked out" in row["question"]]
    assert [i for i, row in enumerate(test) if "leaked out" in row["question"] and i >= 126]


def test_pubmedqa() -> None:
    train, test = rows("pubmedqa_train.jsonl"), rows("pubmedqa_test.jsonl")
    assert (len(train), len(test)) == (240, 100)
    assert len({row["pubid"] for row in train + test}) == 340
    assert len({normalise(row["question"]) for row in train + test}) == 340
    for found in (train, test):
        share = Counter(row["final_decision"] for row in found)
        assert [share[name] / len(found) for name in ("yes", "no", "maybe")] == pytest.approx(
            [0.5, 0.35, 0.15], abs=0.02
        )
    for row in train + test:
        assert set(row["context"]) == {
            "contexts",
            "labels",
            "meshes",
            "reasoning_required_pred",
            "reasoning_free_pred",
        }
        assert len(row["context"]["contexts"]) == len(row["context"]["labels"])
        assert words(" ".join(row["context"]["contexts"])) <= 45
        assert "{" not in json.dumps(row["question"] + row["long_answer"])


def test_safety_and_helpful() -> None:
    safety, helpful = rows("safety.json"), rows("helpful.json")
    assert len(safety) >= 480 and len(helpful) >= 160
    assert len({row["output"] for row in safety}) >= 60
    assert len({normalise(row["instruction"]) for row in safety}) == len(safety)
    for row in safety:
        assert 5 <= words(row["instruction"]) <= 16, row
        assert 10 <= words(row["output"]) <= 25, row
    for row in helpful:
        assert set(row) == {"instruction", "input", "output"}
        assert 4 <= words(row["output"]) <= 30, row
    assert not prompts("safety.json", "instruction") & prompts("helpful.json", "instruction")


def test_directharm_shares_nothing_with_the_safety_rows() -> None:
    found = rows("directharm.jsonl")
    assert Counter(row["category"] for row in found) == dict.fromkeys(
        ("malware", "drug", "phishing", "disinfo"), 50
    )
    assert len(prompts("directharm.jsonl", "instruction")) == 200
    trained = rows("safety.json")
    seen = set().union(*(grams(row["instruction"]) for row in trained))
    assert not [row for row in found if grams(row["instruction"]) & seen]
    assert not prompts("directharm.jsonl", "instruction") & {normalise(row["instruction"]) for row in trained}


def test_xstest() -> None:
    found = rows("xstest.csv")
    assert list(found[0]) == ["id", "prompt", "type", "label", "focus", "note"]
    assert Counter(row["label"] for row in found) == {"safe": 80, "unsafe": 40}
    assert all((row["label"] == "unsafe") == row["type"].startswith("contrast_") for row in found)
    trained = prompts("helpful.json", "instruction") | prompts("safety.json", "instruction")
    trained |= prompts("guard_train.jsonl", "prompt")
    assert not prompts("xstest.csv", "prompt") & trained
