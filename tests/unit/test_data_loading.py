"""Loading from every source: ids, halves, limits, parts and errors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from data import loading, pubmedqa, sources
from data.gsm8k import final_answer, strip_annotations
from data.harmful import from_columns
from data.schema import (
    Completion,
    Example,
    GuardRow,
    Item,
    Verdict,
    normalise,
    read_jsonl,
    read_rows,
    write_jsonl,
)
from safemerge.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
COPIES = REPOSITORY.parent / "shared" / "datasets"
LOCAL = {"source": "local", "root": str(COPIES), "datasets": {}}
BUNDLED_ITEMS = ("gsm8k", "pubmedqa", "directharm", "xstest")
needs_copies = pytest.mark.skipif(not COPIES.is_dir(), reason=f"no local copies of the originals at {COPIES}")


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


@pytest.mark.parametrize("name", loading.TRAINING)
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


@pytest.mark.parametrize(
    "row",
    [
        Example("a", "line\u2028one", "two\nthree", "c"),
        Item("b", "p", "r", "c", "dev", "harmful"),
        GuardRow("c", "p", "r", "unsafe", "S2", "direct"),
        Completion("d", "p", "one\x85\n two", 12, 20, "length", [5, 0, 7]),
        Verdict("e", "invalid", None, None, "odd\r\n"),
        Verdict("f", "unsafe", 0.1 + 0.2, "S1,S10", "unsafe"),
    ],
)
def test_jsonl_round_trip(tmp_path: Path, row: object) -> None:
    write_jsonl(tmp_path / "a.jsonl", [row, row])
    assert read_rows(tmp_path / "a.jsonl", type(row)) == [row, row]


def test_a_bad_line_names_its_file_and_number(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "a", "verdict": "safe"}\n\n{oops\n')
    with pytest.raises(UserError, match=r"rows\.jsonl, line 3 is not JSON"):
        read_jsonl(path)
    for extra, problem in (('"p": 1, "verdict": "safe"', "'p'"), ('"raw": ""', "'verdict'")):
        path.write_text(f'{{"id": "a", "verdict": "safe"}}\n{{"id": "b", {extra}}}\n')
        with pytest.raises(UserError, match=rf"rows\.jsonl, row 2 is no Verdict: .*{problem}"):
            read_rows(path, Verdict)
    with pytest.raises(UserError, match=r"cannot read .*gone\.jsonl"):
        read_rows(tmp_path / "gone.jsonl", Verdict)


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


HUB = {"source": "hub", "root": None, "datasets": {"gsm8k": {"id": "openai/gsm8k", "revision": "abc"}}}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: loading.items("advbench", source=loading.BUNDLED), ["advbench", "data=local"]),
        (lambda: loading.items("nope", source=loading.BUNDLED), ["nope", "directharm"]),
        (lambda: loading.training("nope", source=loading.BUNDLED), ["nope", "pubmedqa"]),
        (lambda: loading.training("safety", source=HUB), ["GitHub", "vinid/safety-tuned-llamas", "file"]),
        (lambda: loading.training("helpful", source=HUB), ["helpful", "hub id"]),
        (lambda: loading.training("safety", source=loading.BUNDLED, part="x"), ["part='x'", "align"]),
        (lambda: loading.training("gsm8k", source=loading.BUNDLED, part="align"), ["safety data only"]),
        (lambda: loading.items("gsm8k", source=loading.BUNDLED, limit=0), ["limit=0"]),
        (
            lambda: loading.items("gsm8k", source={"source": "local", "root": "/no/dir"}),
            ["/no/dir/gsm8k/test.jsonl"],
        ),
        (lambda: loading.items("gsm8k", source={"source": "local", "root": None}), ["data.root"]),
        (lambda: loading.items("gsm8k", source={"source": "web"}), ["'web'", "bundled"]),
        (lambda: loading.guard_rows("test"), ["calibration"]),
    ],
)
def test_errors_name_the_value_and_the_remedy(call, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        call()
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_a_wrong_schema_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "test.jsonl").write_text('{"q": 1}\n')
    source = {"source": "local", "root": str(tmp_path), "datasets": {}}
    with pytest.raises(UserError, match="question"):
        loading.items("gsm8k", source=source)
    (tmp_path / "gsm8k" / "test.jsonl").write_text("{oops\n")
    with pytest.raises(UserError, match=r"gsm8k/test\.jsonl, line 1 is not JSON"):
        loading.items("gsm8k", source=source)
    (tmp_path / "safety.json").write_text("[oops\n")
    with pytest.raises(UserError, match=r"safety\.json cannot be read"):
        loading.training("safety", source={**source, "datasets": {"safety": {"file": "safety.json"}}})


def test_a_file_given_for_the_hub_is_read(tmp_path: Path) -> None:
    path = tmp_path / "bianchi.json"
    path.write_text('[{"instruction": "Do harm", "input": "", "output": "No."}]')
    source = {"source": "hub", "root": None, "datasets": {"safety": {"file": str(path)}}}
    assert loading.training("safety", source=source) == [Example("safety/train/0", "Do harm", "No.")]
    before = loading.fingerprint("safety", split="train", source=source)
    path.write_text('[{"instruction": "Do harm", "input": "", "output": "Never."}]')
    assert loading.fingerprint("safety", split="train", source=source) != before


def test_hub_rows_are_loaded_by_id_config_and_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    calls = []
    rows = sources.rows("pubmedqa", "test", LOCAL) if COPIES.is_dir() else []
    rows = rows or [{**r, "pubid": 12377809} for r in sources.rows("pubmedqa", "test", loading.BUNDLED)[:1]]
    rows = [*rows, {**rows[0], "pubid": 1}]  # 1 is not a test id

    def fake(*args, **kwargs):
        calls.append((args, kwargs))
        return rows

    monkeypatch.setattr(datasets, "load_dataset", fake)
    source = {
        "source": "hub",
        "root": None,
        "datasets": {"pubmedqa": {"id": "a/b", "config": "c", "revision": "r"}},
    }
    assert len(loading.items("pubmedqa", source=source)) == len(rows) - 1
    assert [e.id for e in loading.training("pubmedqa", source=source)] == ["pubmedqa/1"]
    assert calls[0] == (("a/b", "c"), {"split": "train", "revision": "r"})


def test_official_test_ids() -> None:
    ids = pubmedqa.test_ids()
    assert len(ids) == 500 and all(i.isdigit() for i in ids)


def test_fingerprints_differ_by_split_and_need_no_network() -> None:
    prints = {loading.fingerprint("guard", split=split) for split in ("train", "calibration")}
    prints |= {
        loading.fingerprint("gsm8k", split=s, source=src)
        for s in ("train", "test")
        for src in (loading.BUNDLED, HUB)
    }
    assert len(prints) == 5  # the hub's id and revision cover both splits


def test_hexphi_files_have_no_header(tmp_path: Path) -> None:
    from data.harmful import HEXPHI_FILES

    source = {"source": "local", "root": str(tmp_path), "datasets": {}}
    with pytest.raises(UserError, match=r"category_1\.csv"):
        loading.items("hexphi", source=source)
    (tmp_path / "hexphi").mkdir()
    for name in HEXPHI_FILES:
        (tmp_path / "hexphi" / name).write_text(f'"First of {name}, please"\nSecond, of it\n')
    found = loading.items("hexphi", source=source)
    assert len(found) == 20 and found[0].prompt == "First of category_1.csv, please"
    assert found[1].prompt == "Second, of it" and found[1].category == "illegal_activity"
    assert len(loading.fingerprint("hexphi", split="test", source=source)) == 64


def test_bianchi_columns() -> None:
    assert from_columns({"instructions": ["a"], "tags": ["hate"], "inputs": [""]}) == [
        {"instruction": "a", "tag": "hate"}
    ]


def test_no_heavy_import() -> None:
    code = (
        "import sys, data.loading, data.disjoint; print({'torch', 'datasets', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_pretraining_texts_are_training_rows() -> None:
    texts = loading.pretraining_texts()
    assert len(texts) > 1500
    held = {i.prompt for name in BUNDLED_ITEMS for i in loading.items(name, source=loading.BUNDLED)}
    assert not [t for t in texts if t.rsplit("\n", 1)[0] in held]


@needs_copies
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("gsm8k", 400),
        ("pubmedqa", 250),
        ("directharm", 300),
        ("xstest", 450),
        ("advbench", 520),
        ("harmbench", 150),
        ("malicious", 100),
    ],
)
def test_local_items(name: str, count: int) -> None:
    found = loading.items(name, source=LOCAL)
    assert len(found) == count == len({i.id for i in found})
    if name == "xstest":
        assert Counter(i.label for i in found) == {"benign": 250, "harmful": 200}


@needs_copies
@pytest.mark.parametrize(
    ("name", "count"), [("gsm8k", 1500), ("pubmedqa", 300), ("safety", 2483), ("helpful", 1000)]
)
def test_local_training(name: str, count: int) -> None:
    assert len(loading.training(name, source=LOCAL)) == count


@needs_copies
def test_local_pubmedqa_follows_the_official_split() -> None:
    ids = pubmedqa.test_ids()
    assert {i.id.split("/")[1] for i in loading.items("pubmedqa", source=LOCAL)} <= ids
    assert not {e.id.split("/")[1] for e in loading.training("pubmedqa", source=LOCAL)} & ids
