"""Where rows come from: the bundled files, local copies, the hub; what is missing or in another schema is named."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from data import loading, pubmedqa
from data.harmful import from_columns
from data.schema import Example
from safemerge.errors import UserError

COPIES = Path(__file__).resolve().parents[3] / "shared" / "datasets"
LOCAL = {"source": "local", "root": str(COPIES), "datasets": {}}
HUB = {"source": "hub", "root": None, "datasets": {"gsm8k": {"id": "openai/gsm8k", "revision": "abc"}}}
needs_copies = pytest.mark.skipif(not COPIES.is_dir(), reason=f"no local copies of the originals at {COPIES}")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: loading.items("advbench", source=loading.BUNDLED), ["advbench", "data=local"]),
        (lambda: loading.items("nope", source=loading.BUNDLED), ["nope", "directharm"]),
        (lambda: loading.training("nope", source=loading.BUNDLED), ["nope", "pubmedqa"]),
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
        (lambda: loading.guard_rows("test"), ["train, tuning, heldout"]),
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
    with pytest.raises(UserError, match=r"safety\.json is not JSON"):
        loading.training("safety", source={**source, "datasets": {"safety": {"file": "safety.json"}}})


def test_a_file_given_for_the_hub_is_read(tmp_path: Path) -> None:
    path = tmp_path / "bianchi.json"
    path.write_text('[{"instruction": "Do harm", "input": "", "output": "No."}]')
    source = {"source": "hub", "root": None, "datasets": {"safety": {"file": str(path)}}}
    assert loading.training("safety", source=source) == [Example("safety/train/0", "Do harm", "No.")]
    before = loading.fingerprint("safety", split="train", source=source)
    path.write_text('[{"instruction": "Do harm", "input": "", "output": "Never."}]')
    assert loading.fingerprint("safety", split="train", source=source) != before


def test_official_test_ids() -> None:
    ids = pubmedqa.test_ids()
    assert len(ids) == 500 and all(i.isdigit() for i in ids)


def test_fingerprints_differ_by_split_and_need_no_network() -> None:
    prints = {loading.fingerprint("guard", split=split) for split in ("train", "tuning", "heldout")}
    prints |= {
        loading.fingerprint("gsm8k", split=s, source=src)
        for s in ("train", "test")
        for src in (loading.BUNDLED, HUB)
    }
    assert len(prints) == 6  # the hub's id and revision cover both splits


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
