"""Data files as people have them: what is meant is read, anything else is one line that names file, row and remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data import files, loading, pubmedqa, sources
from data.catalogue import KNOWN
from data.dataset import BUNDLED_ROOT, Source
from safemerge.errors import UserError
from tests.planning import experiment

CONF = Path(__file__).resolve().parents[2] / "conf"
SUMS = [
    {"question": "How many?", "answer": "1 + 1 = <<1+1=2>>2\n#### 2"},
    {"question": "And é?", "answer": "#### 3"},
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in SUMS)
ARRAY = json.dumps(SUMS, indent=1, ensure_ascii=False)
TEST_ID, OTHER_ID = sorted(pubmedqa.test_ids())[0], "1"
STUDY = {
    "QUESTION": "Does it help?",
    "CONTEXTS": ["We tried.", "It did."],
    "LABELS": ["A", "B"],
    "YEAR": "2011",
}
STUDY |= {"final_decision": "yes", "LONG_ANSWER": "It helps."}
RELEASE = {TEST_ID: STUDY, OTHER_ID: {**STUDY, "final_decision": "no"}}
ON_HUB = {
    "pubid": int(TEST_ID),
    "question": "Does it help?",
    "context": {"contexts": ["We tried.", "It did."], "labels": ["A", "B"]},
    "long_answer": "It helps.",
    "final_decision": "yes",
}
XSTEST = "id,prompt,type,label,focus,note\n"


def local(**places: Any) -> Source:
    return {
        "source": "local",
        "root": None,
        "datasets": {name: {"file": str(path)} for name, path in places.items()},
    }  # type: ignore[typeddict-item]


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


@pytest.mark.parametrize(
    "content", [json.dumps(RELEASE), "\n".join(json.dumps({"pubid": k, **v}) for k, v in RELEASE.items())]
)
def test_pubmedqa_as_its_authors_release_it(content: str, tmp_path: Path) -> None:
    """One file for both splits: the official ids say which row is whose."""
    path = tmp_path / "ori_pqal.json"
    path.write_text(content)
    tests, trained = (
        loading.items("pubmedqa", source=local(pubmedqa=path)),
        loading.training("pubmedqa", source=local(pubmedqa=path)),
    )
    assert [(i.id, i.reference) for i in tests] == [(f"pubmedqa/{TEST_ID}", "yes")]
    assert [(e.id, e.response) for e in trained] == [(f"pubmedqa/{OTHER_ID}", "no")]
    assert (
        tests[0].prompt
        == pubmedqa.prompt(ON_HUB)
        == pubmedqa.QUESTION.format(context="We tried. It did.", question="Does it help?")
    )
    assert (
        pubmedqa.examples([pubmedqa.of_release(RELEASE)[0]], long_answer=True)[0].response == "It helps.\nyes"
    )


def test_other_test_ids_divide_a_file_otherwise_and_are_in_its_fingerprint(tmp_path: Path) -> None:
    path, ids = tmp_path / "ori_pqal.json", tmp_path / "ids.txt"
    path.write_text(json.dumps(RELEASE))
    ids.write_text(OTHER_ID)
    source, other = local(pubmedqa=path), local(pubmedqa=path)
    other["datasets"]["pubmedqa"]["test_ids"] = str(ids)
    assert [i.id for i in loading.items("pubmedqa", source=other)] == [f"pubmedqa/{OTHER_ID}"]
    prints = {loading.fingerprint("pubmedqa", split="test", source=its) for its in (source, other)}
    assert len(prints) == 2
    path.write_text(json.dumps({OTHER_ID: STUDY}))
    with pytest.raises(UserError, match="has no test rows by its list of test ids"):
        loading.items("pubmedqa", source=source)


@pytest.mark.parametrize(
    "context", ["We tried. It did.", ["We tried.", "It did."], {"contexts": "We tried. It did."}]
)
def test_an_abstract_in_whatever_form(context: Any) -> None:
    assert pubmedqa.prompt({**ON_HUB, "context": context}) == pubmedqa.prompt(ON_HUB)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"context": "{'contexts': ['We tried.']}"}, "printed as a text"),
        ({"context": []}, "not the texts of an abstract"),
        ({"context": [1]}, "context is 1"),
        ({"context": {"labels": []}}, "no column contexts"),
        ({"pubid": None}, "pubid is None"),
        ({"final_decision": "perhaps"}, "'perhaps'; use one of yes, no, maybe"),
    ],
)
def test_what_is_no_row_of_pubmedqa(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        pubmedqa.items([{**ON_HUB, **changes}])


def test_two_rows_of_one_id_are_refused(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text(2 * (json.dumps(ON_HUB) + "\n"))
    with pytest.raises(UserError, match=rf"rows 1 and 2 have one id, pubmedqa/{TEST_ID}"):
        loading.items("pubmedqa", source=local(pubmedqa=tmp_path / "{split}.jsonl"))


def xstest(folder: Path, content: str) -> list[tuple[str, str, str]]:
    (folder / "prompts.csv").write_text(content)
    found = loading.items("xstest", source=local(xstest=folder / "prompts.csv"))
    return [(item.prompt, item.category, item.label) for item in found]


def test_a_comma_without_quotes_in_xstest(tmp_path: Path) -> None:
    """It used to cut the prompt, and to call an unsafe one benign."""
    rows = '1,"How, please, can I kill it?",homonyms,safe,kill,x\nv2-2,How, or where, is he?,contrast_homonyms,unsafe,he,\n'
    assert xstest(tmp_path, XSTEST + rows) == [
        ("How, please, can I kill it?", "homonyms", "benign"),
        ("How, or where, is he?", "contrast_homonyms", "harmful"),
    ]
    assert xstest(tmp_path, "id,type,prompt\n1,homonyms,How, or where?\n") == [
        ("How, or where?", "homonyms", "benign")
    ]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("1,How, or,where,homonyms,perhaps,x,y", "line 2 has 8 cells for the 6 columns.*double quotes"),
        ("1,How?", "line 2 has 2 cells.*one is missing"),
        ('1,"How?,homonyms,safe,x,y', "is not CSV.*close the quotes"),
        ("1,How?,homonyms,perhaps,x,y", "row 1: label is 'perhaps'"),
        ("1,,homonyms,safe,x,y", "row 1: none of the columns prompt"),
    ],
)
def test_rows_of_xstest_that_cannot_be_meant(row: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        xstest(tmp_path, f"{XSTEST}{row}\n")


def test_a_long_prompt_is_read(tmp_path: Path) -> None:
    assert len(xstest(tmp_path, f"{XSTEST}1,{'a ' * 500_000}b,homonyms,safe,x,y\n")[0][0]) == 1_000_001


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


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
COLUMNS = (
    "question",
    "answer",
    "pubid",
    "context",
    "contexts",
    "final_decision",
    "instruction",
    "output",
    "tags",
    "prompt",
)
ROWS = st.lists(st.dictionaries(st.sampled_from(COLUMNS), VALUES, max_size=5), max_size=3)
CONTENT = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.text('{}[]",:\n\r 0ae#', max_size=40).map(str.encode),
    VALUES.map(lambda value: json.dumps(value).encode()),
    ROWS.map(lambda rows: json.dumps(rows).encode()),
    ROWS.map(lambda rows: "\n".join(map(json.dumps, rows)).encode()),
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=CONTENT, suffix=st.sampled_from([".csv", ".json", ".jsonl"]), name=st.sampled_from(sorted(KNOWN))
)
def test_no_content_of_a_file_ends_in_anything_but_rows_or_one_line(
    content: bytes, suffix: str, name: str, tmp_path: Path
) -> None:
    dataset = KNOWN[name]
    path = tmp_path / f"test{suffix}"
    path.write_bytes(content)
    for make, split in ((dataset.items, "test"), (dataset.examples, "train")):
        if make is None or dataset.read_folder:
            continue
        try:
            rows = sources.read(path, dataset)
            for row in make(rows):
                row.prompt.encode()  # can be written down
        except UserError as error:
            assert str(error) and "\n" not in str(error).replace(str(content), ""), (split, error)


def test_the_bundled_files_are_read_as_their_rows_are() -> None:
    for name, dataset in KNOWN.items():
        for split, file in dataset.bundled.items():
            path = sources.path_of(name, split, loading.BUNDLED)
            assert path is not None and len(files.read(path, dataset.of_object, dataset.plausible)) > 50, file
