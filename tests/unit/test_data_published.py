"""PubMedQA and XSTest in the forms in which they are published and passed on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data import loading, pubmedqa
from safemerge.errors import UserError
from tests.planning import local

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
