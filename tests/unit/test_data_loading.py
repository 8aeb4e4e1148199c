"""What the bundled data becomes: ids, halves, limits, parts, and no test row among the training rows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from data import loading, pubmedqa, sources
from data.gsm8k import final_answer, strip_annotations
from data.schema import (
    Example,
    normalise,
)

REPOSITORY = Path(__file__).resolve().parents[2]
TRAINING = ("gsm8k", "pubmedqa", "safety", "helpful", "guard")
BUNDLED_ITEMS = ("gsm8k", "pubmedqa", "directharm", "xstest")


@pytest.mark.parametrize("name", BUNDLED_ITEMS)
def test_halves_are_equal_and_stable(name: str) -> None:
    found = loading.items(name, source=loading.BUNDLED)
    assert abs(Counter(i.half for i in found)["dev"] - len(found) / 2) <= 1
    for category in {i.category for i in found}:
        half = Counter(i.half for i in found if i.category == category)
        assert abs(half["dev"] - half["test"]) <= 1
    known = {i.id: i for i in found}
    for seed in (0, 1):
        assert all(known[i.id] == i for i in loading.items(name, source=loading.BUNDLED, limit=31, seed=seed))


def test_halves_do_not_move_between_releases() -> None:
    """Written down once: results on the two halves are only comparable if these stay."""
    found = loading.items("directharm", source=loading.BUNDLED)
    assert "".join(i.half[0] for i in found[:24]) == "tdttttdttdtddtttddtddttt"


def test_where_nothing_is_selected_there_is_one_half_with_the_same_prompts() -> None:
    whole = loading.items("directharm", source=loading.BUNDLED, selecting=False)
    assert {i.half for i in whole} == {"test"}
    assert [i.id for i in whole] == [i.id for i in loading.items("directharm", source=loading.BUNDLED)]


@pytest.mark.parametrize("name", BUNDLED_ITEMS)
def test_a_limit_keeps_order_and_proportions(name: str) -> None:
    every = [i.id for i in loading.items(name, source=loading.BUNDLED)]
    some = loading.items(name, source=loading.BUNDLED, limit=40, seed=3)
    assert len(some) == 40 and [i.id for i in some] == [i for i in every if i in {s.id for s in some}]
    assert some == loading.items(name, source=loading.BUNDLED, limit=40, seed=3)
    assert some != loading.items(name, source=loading.BUNDLED, limit=40, seed=4)
    assert abs(Counter(i.half for i in some)["dev"] - 20) <= 1
    if name == "directharm":
        assert all(9 <= n <= 11 for n in Counter(i.category for i in some).values())
    if name == "xstest":
        assert abs(Counter(i.label for i in some)["benign"] - 27) <= 1


@pytest.mark.parametrize("name", TRAINING)
def test_training(name: str) -> None:
    found = loading.training(name, source=loading.BUNDLED)
    assert len({e.id for e in found}) == len(found)
    assert all(e.prompt for e in found)
    some = loading.training(name, source=loading.BUNDLED, limit=25, seed=1)
    assert len(some) == 25 and set(some) <= set(found)
    assert some == [e for e in found if e in some]


def test_formats() -> None:
    maths = loading.training("gsm8k", source=loading.BUNDLED)[0]
    assert "<<" not in maths.response and "#### " in maths.response
    medical = loading.training("pubmedqa", source=loading.BUNDLED)
    assert {e.response for e in medical} == {"yes", "no", "maybe"}
    assert strip_annotations("3 * 4 = <<3*4=12>>12") == "3 * 4 = 12"
    assert final_answer("a\n#### 1,200") == "1200" and final_answer("12") == ""


def test_parts_of_the_safety_rows_are_disjoint() -> None:
    every = loading.training("safety", source=loading.BUNDLED)
    align = loading.training("safety", source=loading.BUNDLED, part="align")
    rest = loading.training("safety", source=loading.BUNDLED, part="safety")
    assert {e.id for e in align} | {e.id for e in rest} == {e.id for e in every}
    assert not {normalise(e.prompt) for e in align} & {normalise(e.prompt) for e in rest}
    assert len(align) == len(rest)


def test_repeated_prompts_stay_in_one_part() -> None:
    from data.safety import part

    rows = [
        Example(f"s/{i}", prompt, "no") for i, prompt in enumerate(["A bomb?", "B", "a bomb", "C", "D", "b!"])
    ]
    for name in ("align", "safety"):
        kept = {e.id for e in part(rows, name)}
        assert ("s/0" in kept) == ("s/2" in kept) and ("s/1" in kept) == ("s/5" in kept)


def test_docstrings_open_with_real_rows() -> None:
    from data import gsm8k, harmful, safety

    def shown(text: str | None) -> str:
        return " ".join((text or "").split())

    maths = [r for split in ("train", "test") for r in sources.rows("gsm8k", split, loading.BUNDLED)]
    assert any(r["question"] in shown(gsm8k.__doc__) for r in maths)
    assert any(
        r["question"] in shown(pubmedqa.__doc__) for r in sources.rows("pubmedqa", "train", loading.BUNDLED)
    )
    assert any(
        json.dumps(r["output"]) in shown(safety.__doc__)
        for r in sources.rows("safety", "train", loading.BUNDLED)
    )
    assert any(
        r["instruction"] in shown(harmful.__doc__)
        for r in sources.rows("directharm", "test", loading.BUNDLED)
    )


def test_no_heavy_import() -> None:
    code = (
        "import sys, data.loading, data.disjoint; print({'torch', 'datasets', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
