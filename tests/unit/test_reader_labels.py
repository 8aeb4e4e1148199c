"""A reader's labels of a run's own replies: a blind draw, and what they say of the judges."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from synthetic_run import REFUSAL, write_run

from data.schema import read_rows
from evaluation import reader_labels
from evaluation.reader_labels import Label, Sheet, agreement, draw, main, replies
from evaluation.results import Entry, load
from safemerge.errors import UserError


@pytest.fixture(scope="module")
def run_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("labels"), n=40, seeds=(0, 1))


@pytest.fixture(scope="module")
def entries(run_json: Path) -> list[Entry]:
    return load(run_json)[1]


def right(sheet: Sheet) -> Label:
    return Label(sheet.id, "refuses" if sheet.reply == REFUSAL else "complies")


def test_a_draw_takes_as_many_of_each_row_and_tells_none_of_them(entries: list[Entry]) -> None:
    rows: dict[str, set[str]] = {}
    for its in replies(entries):
        rows.setdefault(its.row, set()).add(its.sheet.id)
    found = draw(entries, 60)
    assert 60 <= len(found) < 60 + len(rows) and len({its.id for its in found}) == len(found)
    assert found == draw(entries, 60) != draw(entries, 60, seed=1)
    of_rows = Counter(row for its in found for row in rows if its.id in rows[row])
    assert set(of_rows) == set(rows) and min(of_rows.values()) >= 60 // len(rows) - 1
    assert set(vars(found[0])) == {"id", "prompt", "reply"}


def test_judges_are_measured_by_what_the_reader_says(entries: list[Entry]) -> None:
    sheets = draw(entries, 80)
    table = agreement(entries, [right(its) for its in sheets])
    phrases, guard = (next(row for row in table.rows if row[0] == judge) for judge in ("refusal", "guard"))
    assert phrases[2].startswith("100") and phrases[3].startswith("100") and phrases[4] == "1"
    refused = next(i for i, its in enumerate(sheets) if its.reply == REFUSAL)
    labels = [right(its) for its in sheets]
    labels[refused] = Label(sheets[refused].id, "complies")
    worse = next(row for row in agreement(entries, labels).rows if row[0] == "refusal")
    assert worse[2] != phrases[2], "a reply that complies and that the phrases took for a refusal"
    assert int(guard[5]) == sum(
        its.said["guard"] is None
        for its in {f.sheet.id: f for f in replies(entries)}.values()
        if its.sheet in sheets
    )


def test_neither_is_no_refusal_and_no_compliance(entries: list[Entry]) -> None:
    sheets = draw(entries, 80)
    labels = [Label(its.id, "refuses" if its.reply == REFUSAL else "neither") for its in sheets]
    by_judge = {row[0]: row for row in agreement(entries, labels).rows}
    assert by_judge["refusal"][2].startswith("100"), "no refusal, so the phrases are to find none"
    assert by_judge["guard"][2].startswith("–"), "nothing complies, so there is nothing for the guard to find"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda its: [*its, its[0]], "labelled twice"),
        (lambda its: [Label("0123456789abcdef", "refuses")], "no reply of this run"),
        (lambda its: [Label(its[0].id, "bad")], "'bad' of .* is unknown; use refuses"),
    ],
)
def test_labels_that_do_not_fit_are_one_line(entries: list[Entry], change, said: str) -> None:
    with pytest.raises(UserError, match=said):
        agreement(entries, change([right(its) for its in draw(entries, 20)]))


def test_from_the_command_line_to_the_page(
    run_json: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet, labels, page = tmp_path / "sheet.jsonl", tmp_path / "labels.jsonl", tmp_path / "page.md"
    assert main(["draw", "--run", str(run_json), "--n", "30", "--output", str(sheet)]) == 0
    read = [right(its) for its in read_rows(sheet, Sheet)]
    labels.write_text("".join(json.dumps(vars(its)) + "\n" for its in read))
    page.write_text(f"before\n{reader_labels.START}\nold\n{reader_labels.END}\nafter\n")
    command = ["score", "--run", str(run_json), "--labels", str(labels), "--page", str(page)]
    assert main(command) == 0
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| refusal |" in text and f"{len(read)} labelled replies to harmful prompts" in text
    assert not any(its.reply in text for its in read_rows(sheet, Sheet) if its.reply != REFUSAL)
    page.write_text("no markers")
    assert main(command) == 2 and "labels:start" in capsys.readouterr().err
    assert main(["draw", "--run", str(run_json), "--n", "0", "--output", str(sheet)]) == 2
