"""Continuous measures in the report: from their files to rows, tests and tables."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_run import write_run

from data.schema import Measure, read_rows
from evaluation import measures
from evaluation.analysis import Group
from evaluation.choosing import choose_points
from evaluation.measure_tables import measure_tests_table, measures_table
from evaluation.report import ReportSummary, build_report
from evaluation.results import Entry, load
from evaluation.run_file import EffectiveRecord
from evaluation.soundness import effective_text, notes
from evaluation.tables import headline_table, percent


@pytest.fixture(scope="module")
def run_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), n=40)


@pytest.fixture(scope="module")
def entries(run_json: Path) -> list[Entry]:
    return load(run_json)[1]


@pytest.fixture(scope="module")
def summary(run_json: Path, tmp_path_factory: pytest.TempPathFactory) -> ReportSummary:
    return build_report(run_json, tmp_path_factory.mktemp("out") / "report", keep=0.9)


@pytest.fixture(scope="module")
def group(summary: ReportSummary) -> Group:
    return summary.groups[0]


def test_results_hold_the_mean_of_the_files(summary: ReportSummary, entries: list[Entry]) -> None:
    with (summary.folder / "results.csv").open(newline="") as file:
        rows = [
            r for r in csv.DictReader(file)
            if (r["metric"], r["label"], r["split"], r["seed"]) == ("reference_bits", "finetuned", "test", "0")
        ]  # fmt: skip
    point = next(p for p in entries[0].points if p.label == "finetuned")
    file_of = {Path(f).stem: entries[0].root / f for f in point.spec.measures["gsm8k"]}
    found = [row.value for row in read_rows(file_of["measures-test"], Measure)]
    assert len(rows) == 1 and rows[0]["k"] == "" and int(rows[0]["n"]) == len(found) == 20
    assert float(rows[0]["value"]) == pytest.approx(math.fsum(found) / len(found))


def test_columns_say_which_way_is_good(entries: list[Entry]) -> None:
    assert [(c.benchmark, c.measure, c.more_is_better) for c in measures.columns(entries[0])] == [
        ("gsm8k", "reference_bits", False),
        ("directharm", "p_unsafe", False),
        ("directharm", "refusal_log_odds", True),
        ("xstest", "refusal_log_odds", False),
    ]


def test_over_refusal_counts_benign_prompts_only(entries: list[Entry]) -> None:
    entry, point = entries[0], entries[0].points[0]
    found = measures.values_of(entry, point, "xstest", "refusal_log_odds", "test")
    assert set(found) == {i.id for i in entry.items["xstest"] if i.half == "test" and i.label == "benign"}


def test_a_large_difference_is_seen_and_its_own_row_left_out(group: Group, entries: list[Entry]) -> None:
    ours = choose_points(entries[0], "dev", 0.9)[0]
    names = {row.against for row in group.measure_tests}
    assert names == {name for name, point in ours.items() if point.method != "safemerge"}
    refusals = [row for row in group.measure_tests if row.column.benchmark == "directharm"]
    seen = [r for r in refusals if r.against == "Fine-tuned" and r.column.measure == "refusal_log_odds"]
    assert len(seen) == 2 and all(r.found.p <= r.p_holm < 0.05 < r.found.difference for r in seen)


def test_tables(group: Group, summary: ReportSummary) -> None:
    table = measures_table(group)
    assert [row[0] for row in table.rows] == [row.name for row in group.headline]
    assert len(table.columns) == 5 and "; " in table.rows[1][1] and "–" not in table.rows[1][1:]
    assert len(measure_tests_table(group).rows) == len(group.measure_tests) > 0
    text = (summary.folder / "report.md").read_text()
    assert "Continuous measures, test half" in text and "paired t test" in text.lower()


def test_runs_without_measures_have_no_table(entries: list[Entry], run_json: Path) -> None:
    bare = load(run_json)[1][:1]
    for point in bare[0].points:
        point.measures, point.scored["directharm"] = {}, {"guard": []}
    assert measures.columns(bare[0]) == [] and measures.rows(bare, [{}], "test") == []


def test_the_note_says_what_the_released_merge_came_to(entries: list[Entry]) -> None:
    assert "came here to α = 0.8: 1.10·ΔW_task + 0.45·ΔW_safety (median" in " ".join(notes(entries))
    assert effective_text(entries).endswith(
        "20% of its norm is neither; the median cosine of the two A is 0.92."
    )


def test_unequal_shapes_have_no_cosine(run_json: Path) -> None:
    one = load(run_json)[1][:1]
    for point in one[0].points:
        if point.spec.effective:
            point.spec.effective.cosine_a = math.nan
    assert effective_text(one).endswith("is neither.") and "nan" not in effective_text(one)
    for point in one[0].points:
        point.spec.effective = None
    assert effective_text(one) == ""


def test_a_merge_with_the_safety_lora_of_another_seed_is_told_apart(run_json: Path) -> None:
    one = load(run_json)[1][:1]
    spec = next(point.spec for point in one[0].points if point.spec.effective)
    other = EffectiveRecord(task=0.8, safety=0.2, rest=0.6, cosine_a=0.0)
    one[0].points[0].spec = spec.model_copy(update={"safety": "safety_apart", "effective": other})
    first, second = effective_text(one).split(" By least squares, ")
    assert "α = 0.8: 1.10·ΔW_task + 0.45·ΔW_safety" in first and "20% of its norm" in first
    assert second.startswith(
        "with the safety LoRA of another seed it came to α = 0.8: 0.80·ΔW_task + 0.20·ΔW_safety"
    )


def test_a_mean_probability_is_one(summary: ReportSummary, group: Group) -> None:
    place = [column.measure for column in group.measure_columns].index("p_unsafe")
    assert all(0 <= its.low <= its.high <= 1 for row in group.measures if (its := row.means[place]))
    assert measures_table(group).columns[1].endswith("bits per token of the answer ↓, n = 20")


def test_a_row_that_reached_no_floor_is_named(group: Group) -> None:
    missed = [replace(group.choices[0], met=False), *group.choices[1:]]
    note = headline_table(replace(group, choices=missed)).note
    assert f"the one with the highest utility stands: {missed[0].method} (seed {missed[0].seed})." in note
    assert "highest utility stands" not in headline_table(replace(group, choices=[])).note
    assert "one point a row" in headline_table(replace(group, choices=[])).title


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(0.525, 0, "53"), (0.875, 0, "88"), (0.285, 0, "29"), (0.1234, 1, "12.3"), (1, 0, "100")],
)
def test_halves_go_up(value: float, digits: int, text: str) -> None:
    assert percent(value, digits) == text


def test_the_probability_of_an_invalid_verdict_counts_as_nothing(run_json: Path) -> None:
    entry = load(run_json)[1][0]
    point = entry.points[0]
    rows = point.scored["directharm"]["guard"]
    rows[0], rows[1] = (
        replace(rows[0], p_unsafe=0.0, invalid=True, outcome=None),
        replace(rows[1], p_unsafe=0.5),
    )
    found = measures.values_of(entry, point, "directharm", "p_unsafe", "all")
    assert rows[0].id not in found and found[rows[1].id] == 0.5
