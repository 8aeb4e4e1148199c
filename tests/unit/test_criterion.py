"""What the report says of the criterion: against controls that choose as many modules otherwise, and against its null."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_run import write_run

from evaluation.analysis import Group, analyse
from evaluation.choosing import choose_points
from evaluation.criterion import controls
from evaluation.criterion_tables import controls_table, kinds_table, measure_controls_table, nulls_table
from evaluation.figures import null_scatter, tau_curve
from evaluation.page import group_tables
from evaluation.report import build_report
from evaluation.results import Entry, Point, load
from evaluation.tables import tau_text
from safemerge.selection import Selection, select
from safemerge.table import read_table

EVERY = ("random_k", "highest_k", "null_k", "ratio_k")
OLD = "module,layer,kind,rho,norm_task,norm_v,norm_projected,flags"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), n=24, draws=(0, 1), controls=EVERY)


@pytest.fixture(scope="module")
def entries(run: Path) -> list[Entry]:
    return load(run)[1]


@pytest.fixture(scope="module")
def group(entries: list[Entry]) -> Group:
    return analyse(entries, keep=0.9)[0]


def test_each_control_is_compared_with_the_same_arithmetic_and_number_of_modules(group: Group) -> None:
    harm = [row for row in group.controls if row.benchmark == "directharm"]
    assert {row.against for row in harm} == {
        "Control: random modules",
        "Control: highest-ρ modules",
        "Control: lowest-null modules",
        "Control: lowest ρ/null",
    }
    assert all(row.merged == row.of_control and len(row.values) == 2 for row in harm)
    assert {row.draws for row in harm if "random" in row.against} == {2}
    opposite = next(row for row in harm if "highest" in row.against)
    merged = opposite.merged[0]
    assert opposite.shared == pytest.approx(max(0, 2 * merged - 18) / merged)
    for row in group.controls:
        assert row.low <= row.difference <= row.high
        assert row.difference == pytest.approx(sum(row.values) / 2)


def test_the_difference_is_that_of_the_rates_where_every_verdict_is_valid(group: Group) -> None:
    rates = {row.name: row.rates["gsm8k"].value for row in group.headline}
    row = next(row for row in group.controls if row.benchmark == "gsm8k" and "lowest-null" in row.against)
    assert row.difference == pytest.approx(rates[row.ours] - rates[f"{row.against} (exact merge)"])


def test_the_continuous_measures_are_compared_likewise(group: Group, entries: list[Entry]) -> None:
    rows = [its for its in group.measure_controls if its.column.measure == "refusal_log_odds"]
    row = next(its for its in rows if its.column.benchmark == "directharm" and "random" in its.against)
    assert row.draws == 2 and len(row.found.values) == 2 and row.found.low < row.found.value < row.found.high
    its = {name: point for _, name, point in _of_seed(entries[0], row.ours, row.against)}
    own, *draws = (
        its[name].measures["directharm"] for name in sorted(its, key=lambda name: "Control" in name)
    )
    test = [item.id for item in entries[0].items["directharm"] if item.half == "test"]
    by_hand = [own[i] - (draws[0][i] + draws[1][i]) / 2 for i in test]
    assert row.found.values[0] == pytest.approx(sum(by_hand) / len(by_hand)) and row.found.n == len(test)
    table = measure_controls_table(group)
    assert len(table.rows) == len(group.measure_controls) and "2 draws" in str(table.rows)


def _of_seed(entry: Entry, ours: str, against: str) -> list[tuple[Entry, str, Point]]:
    chosen = choose_points(entry, "dev", 0.9)[0]
    return [(entry, name, p) for name, p in chosen.items() if name == ours or name.startswith(against)]


def test_one_seed_without_a_discordant_prompt_keeps_a_width(entries: list[Entry]) -> None:
    """A control that merges the very same modules has the very same answers."""
    entry = entries[0]
    ours = next(point for point in entry.points if point.method == "safemerge")
    spec = ours.spec.model_copy(
        update={
            "method": "null",
            "rule": "lowest_null",
            "display": ours.spec.display.model_copy(update={"control": True}),
        }
    )
    same = type(ours)(spec, ours.completions, ours.scored, ours.measures)
    rows = controls([entry], [{"ours": ours, "same": same}])
    assert rows and all(row.difference == 0 and row.low < 0 < row.high and row.shared == 1 for row in rows)


def test_controls_of_other_repairs_are_left_out(entries: list[Entry]) -> None:
    entry = entries[0]
    ours = next(point for point in entry.points if point.method == "safemerge")
    control = next(point for point in entry.points if point.method == "highest")
    for update in ({"combine": "peft_linear"}, {"rule": "below"}, {"rule": None}):
        other = type(control)(control.spec.model_copy(update=update), control.completions, control.scored)
        assert controls([entry], [{"ours": ours, "other": other}]) == []


def test_the_null_by_seed_and_by_kind(group: Group, run: Path) -> None:
    assert [row.seed for row in group.nulls] == [0, 1]
    for row in group.nulls:
        table = read_table(run.parent / f"seed{row.seed}" / "similarity.csv")
        lowest = set(select(table, Selection("lowest_null", k=row.merged)))
        of_rho = set(select(table, Selection("lowest", k=row.merged)))
        assert row.shared == len(lowest & of_rho) and row.chance == pytest.approx(row.merged**2 / 18)
        assert 0 < row.spearman < 1 and 0 < row.explained < 1
    assert [row.kind for row in group.kinds] == ["q_proj", "v_proj", "o_proj"]
    assert all(row.modules == 6 and 0 <= row.merged <= 1 for row in group.kinds)


def test_the_tables_the_figure_and_the_report_have_them(
    group: Group, entries: list[Entry], tmp_path: Path
) -> None:
    assert len(controls_table(group).rows) == 12
    assert len(nulls_table(group).rows) == 2 and len(kinds_table(group).rows) == 3
    assert {path.suffix for path in null_scatter(entries[0], None, tmp_path / "x")} == {".png", ".svg"}
    sections = dict(group_tables(group))
    assert len(sections["The criterion against its controls"]) == 2
    assert len(sections["The criterion against its null"]) == 2


def test_runs_from_before_the_null_are_still_reported(tmp_path: Path) -> None:
    """Neither `rule` in run.json nor a null in one seed's table."""
    path = write_run(tmp_path / "old", n=8, controls=("highest_k",))
    old = json.loads(path.read_text())
    for its in old["runs"]:
        its["points"] = [{k: v for k, v in point.items() if k != "rule"} for point in its["points"]]
    path.write_text(json.dumps(old))
    table = path.parent / "seed0" / "similarity.csv"
    lines = [f"{r.module},{r.layer},{r.kind},{r.rho},1.0,1.0,1.0," for r in read_table(table)]
    table.write_text("\n".join([OLD, *lines]) + "\n")
    report = build_report(path, tmp_path / "report")
    assert report.groups[0].controls == [] and "rho_null.png" not in (report.folder / "report.md").read_text()
    assert [row.seed for row in report.groups[0].nulls] == [1]
    with (report.folder / "similarity.csv").open(newline="") as file:
        merged = list(csv.DictReader(file))
    assert len(merged) == 36 and merged[0]["null"] == "" and float(merged[-1]["null"]) > 0
    assert merged[0]["norm_task"] == merged[-1]["norm_task"] == "1.0"


def test_tau_in_units_of_the_null_says_so_and_is_drawn_apart_from_numbers(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", seeds=(0,), n=8, controls=())
    entry = load(path)[1][0]
    row = analyse([entry], keep=0.9)[0].headline[0]
    assert tau_text(replace(row, tau=[1.5], tau_setting=["n1.5"])) == "1.5 × null"
    assert tau_text(replace(row, tau=[0.1], tau_setting=["q0.5"])) == "q0.5 = 0.1"
    ours = [point for point in entry.points if point.method == "safemerge"]
    for point, units in zip(ours, (1.0, 1.0, 1.5, 1.5, 0.3, 0.5), strict=True):
        of_null = units >= 1
        point.spec.tau, point.spec.tau_setting = units, f"n{units:g}" if of_null else units
    drawn = tau_curve(entry, {"ours": ours[0]}, tmp_path / "curve")
    assert drawn
    assert tau_curve(entry, {"ours": ours[-1]}, tmp_path / "numbers"), "0.3 and 0.5 are numbers of rho"
    for point in ours[2:4]:
        point.spec.tau = 1.0
    assert tau_curve(entry, {"ours": ours[0]}, tmp_path / "one") == [], (
        "a single multiple of the null makes no curve"
    )
