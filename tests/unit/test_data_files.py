"""Data files as people have them: what is meant is read, anything else is one line that names file, row and remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir

from data import files, loading, sources
from data.catalogue import KNOWN
from data.dataset import BUNDLED_ROOT
from safemerge.errors import UserError
from tests.planning import experiment, local

CONF = Path(__file__).resolve().parents[2] / "conf"
SUMS = [
    {"question": "How many?", "answer": "1 + 1 = <<1+1=2>>2\n#### 2"},
    {"question": "And é?", "answer": "#### 3"},
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in SUMS)
ARRAY = json.dumps(SUMS, indent=1, ensure_ascii=False)
XSTEST = "id,prompt,type,label,focus,note\n"


def maths(folder: Path, content: str | bytes, name: str = "test.jsonl") -> list[tuple[str, str]]:
    """(question, reference) of the test rows in a file."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path = path.with_name(name.replace("test", "{split}"))
    return [(item.prompt, item.reference) for item in loading.items("gsm8k", source=local(gsm8k=path))]


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (LINES, "test.jsonl"),
        (b"\xef\xbb\xbf" + LINES.encode(), "test.jsonl"),
        (LINES.encode("utf-16"), "test.jsonl"),
        (LINES.replace("\n", "\r\n"), "test.jsonl"),
        (LINES.replace("\n", "\r"), "test.jsonl"),
        ("\n\n" + LINES.replace("\n", "\n \n"), "test.jsonl"),
        (ARRAY, "test.jsonl"),
        (ARRAY.replace("\n", "\r\n"), "test.json"),
        (b"\xef\xbb\xbf" + ARRAY.encode(), "test.json"),
        (LINES, "test.json"),
        (LINES, "test.ndjson"),
    ],
)
def test_every_way_of_writing_the_same_rows(content: str | bytes, name: str, tmp_path: Path) -> None:
    assert maths(tmp_path, content, name) == [("How many?", "2"), ("And é?", "3")]


def test_one_row_alone_is_a_row_and_no_object_of_rows(tmp_path: Path) -> None:
    assert maths(tmp_path, json.dumps(SUMS[0])) == [("How many?", "2")]
    assert maths(tmp_path, json.dumps(SUMS[0], indent=1), "test.json") == [("How many?", "2")]


def test_line_separators_inside_a_text_break_no_line(tmp_path: Path) -> None:
    row = {"question": "a\u2028b\x85c", "answer": "#### 1"}
    assert maths(tmp_path, json.dumps(row, ensure_ascii=False) + "\n" + LINES)[0] == ("a\u2028b\x85c", "1")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (LINES.encode("latin-1"), ["line 2", "not UTF-8", "0xe9", "save the file as UTF-8"]),
        (b"PAR1\x00\x00", ["Parquet", "convert"]),
        (b"\x1f\x8b\x08\x00", ["gzip", "unpack"]),
        (LINES + '{"question": "cut', ["line 3 is not JSON"]),
        ("1\n2\n", ["row 1 is 1", "one object a line"]),
        ('["a"]', ["row 1 is 'a'"]),
        (json.dumps({"data": SUMS}), ["single object (data", "array of objects"]),
        ("[" * 100_000, ["nested too deeply"]),
        ("1" * 5000, ["not JSON"]),
        ("", ["no rows"]),
        (" \n\n", ["no rows"]),
        ('{"question": null, "answer": "#### 1"}', ["row 1", "question is None, not a text"]),
        ('{"question": NaN, "answer": "#### 1"}', ["question is nan"]),
        ('{"question": " ", "answer": "#### 1"}', ["question is empty"]),
        ('{"question": "\\ud800", "answer": "#### 1"}', ["is no character"]),
        ('{"question": "a", "answer": 12}', ["answer is 12, not a text"]),
        ('{"question": "a"}', ["no column answer", "but question"]),
        (LINES + '{"question": "a", "answer": "It is two."}', ["row 3", "It is two.", "'#### 12'"]),
        ('{"question": "a", "answer": "so\\n####"}', ["'#### 12'"]),
    ],
)
def test_what_is_no_row_is_named(content: str | bytes, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        maths(tmp_path, content)
    said = str(error.value)
    assert str(tmp_path / "test.jsonl") in said and "\n" not in said
    assert all(word in said for word in words), said


def test_a_number_alone_is_the_answer(tmp_path: Path) -> None:
    rows = "".join(
        json.dumps({"question": "a", "answer": answer}) + "\n" for answer in ("12", "$1,234.50", "-3")
    )
    assert [reference for _, reference in maths(tmp_path, rows)] == ["12", "$1234.50", "-3"]


def test_one_file_for_both_splits_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(LINES)
    overrides = ["data=local", f"data.root={tmp_path}", f"+data.datasets.gsm8k.file={path}"]
    overrides += [f"+data.datasets.{its}.file={BUNDLED_ROOT / its}.json" for its in ("safety", "helpful")]
    with initialize_config_dir(str(CONF), version_base="1.3"), pytest.raises(UserError) as error:
        experiment(*overrides)
    for words in ("mine.jsonl is given for its training and its test rows", "DIR/{split}.jsonl"):
        assert words in str(error.value)


def test_braces_in_a_path_are_a_part_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "r=8 {x} {0} {split}"
    (tmp_path / "r=8 {x} {0} test").mkdir()
    (tmp_path / "r=8 {x} {0} test" / "test.jsonl").write_text(LINES)
    assert len(loading.items("gsm8k", source=local(gsm8k=folder / "{split}.jsonl"))) == 2


def test_of_files_read_otherwise_than_before_what_was_made_is_made_anew(
    tmp_path: Path, monkeypatch: Any
) -> None:
    """A store may hold the prompts that an earlier version cut at a comma, under the same content of the file."""
    import dataclasses

    from data import catalogue

    (tmp_path / "prompts.csv").write_text(XSTEST + "1,a,homonyms,safe,x,y\n")
    source = local(xstest=tmp_path / "prompts.csv")
    before = [loading.fingerprint("xstest", split="test", source=its) for its in (source, loading.BUNDLED)]
    monkeypatch.setitem(catalogue.KNOWN, "xstest", dataclasses.replace(KNOWN["xstest"], reading=9))
    after = [loading.fingerprint("xstest", split="test", source=its) for its in (source, loading.BUNDLED)]
    assert before[0] != after[0] and before[1] == after[1]


def test_the_bundled_files_are_read_as_their_rows_are() -> None:
    for name, dataset in KNOWN.items():
        for split, file in dataset.bundled.items():
            path = sources.path_of(name, split, loading.BUNDLED)
            assert path is not None and len(files.read(path, dataset.of_object, dataset.plausible)) > 50, file
