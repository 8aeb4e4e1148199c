"""What stands under the result tables about the baselines: what SafeLoRA did to its updates, and which rows were tuned."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from synthetic_run import CONF, write_run

from evaluation import readme, results
from evaluation.analysis import Group, analyse
from evaluation.report import build_report
from evaluation.run_file import EntryRecord, Projection, RunFile
from evaluation.tables import headline_table
from pipeline import run_record
from pipeline.artifacts import REPAIR
from pipeline.store import Store
from safemerge.changes import Changes
from safemerge.errors import UserError
from tests.planning import experiment, fill, with_similarity

OFFICIAL = "SafeLoRA (official C) multiplies the updates of its modules by {} (median): C is no projector."


def shrunk(folder: Path, *shrinks: float, projector: str = "official", name: str = "SafeLoRA") -> Path:
    """A run with a seed for each shrink that SafeLoRA's projection reported."""
    path = write_run(folder, n=8, seeds=tuple(range(len(shrinks))))
    run = results.read_run(path)
    for entry, shrink in zip(run.runs, shrinks, strict=True):
        point = next(point for point in entry.points if point.method == "safelora")
        point.projection = Projection(projector=projector, shrink=shrink)
        point.display.name = name
    run.write(path)
    return path


def group_of(path: Path, change: Callable[[EntryRecord], None] = lambda entry: None) -> Group:
    run: RunFile = results.read_run(path)
    for entry in run.runs:
        change(entry)
    [group] = analyse([results.load_entry(entry, path.parent) for entry in run.runs], keep=0.9)
    return group


@pytest.mark.parametrize(
    ("shrinks", "said"),
    [((0.00912,), "0.0091"), ((0.00912, 0.0121), "0.0091; 0.012"), ((0.00912, 0.00913), "0.0091")],
)
def test_the_shrink_of_safeloras_c_stands_under_every_result_table(
    shrinks: tuple[float, ...], said: str, tmp_path: Path
) -> None:
    path = shrunk(tmp_path, *shrinks)
    group = group_of(path)
    for table in (headline_table(group), headline_table(group, paper=True)):
        assert OFFICIAL.format(said) in table.note
    assert OFFICIAL.format(said) in readme.block(*readme.analysed([path]))


def test_it_is_in_the_report_and_the_orthogonal_projector_has_a_sentence_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "evaluation.report.draw", lambda groups, *_: ({i: {} for i, _ in enumerate(groups)}, [])
    )
    name = "SafeLoRA (orthogonal projector)"
    build_report(shrunk(tmp_path / "run", 0.4, projector="orthogonal", name=name), tmp_path / "report")
    for file in ("report.md", "report.html", "main_table.tex"):
        text = (tmp_path / "report" / file).read_text()
        assert f"{name} multiplies the updates of its modules by 0.4 (median)." in text
        assert "C is no projector" not in text


def test_without_a_projection_nothing_is_said_of_one(tmp_path: Path) -> None:
    note = headline_table(group_of(write_run(tmp_path, n=8, seeds=(0,)))).note
    assert "multiplies the updates" not in note


def test_the_table_says_among_how_many_points_each_row_was_selected(tmp_path: Path) -> None:
    note = headline_table(group_of(write_run(tmp_path, n=8, seeds=(0, 1)))).note
    assert "Selected among: SafeMERGE (exact merge) 6 points." in note
    assert (
        "One point each, not tuned: SafeInstruct; RESTA-style (safety LoRA as vector); SafeLoRA; "
        "Full merge, τ = ∞ (released merge)." in note
    )
    assert "Control" not in note, "controls take SafeMERGE's setting"


def test_a_table_without_any_grid_says_that_nothing_was_tuned(tmp_path: Path) -> None:
    def one_each(entry: EntryRecord) -> None:
        first = {point.method: point.label for point in reversed(entry.points)}
        entry.points = [point for point in entry.points if point.label == first[point.method]]

    note = headline_table(group_of(write_run(tmp_path, n=8, seeds=(0,)), one_each)).note
    assert "Selected among" not in note
    assert "not tuned: SafeInstruct; " in note and "; SafeMERGE (exact merge)." in note


@pytest.fixture
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@pytest.mark.usefixtures("hydra")
def test_run_json_holds_what_the_projections_reported(tmp_path: Path) -> None:
    methods = "method=[aligned,finetuned,safelora,safelora_orthogonal,scale]"
    x, store = experiment(methods, "method.safelora.tau=0.3", "selection.grid=all"), Store(tmp_path)
    candidates = with_similarity(x, store, [0.1, 0.2, 0.4])
    made = {step.key: step for step in run_record.needed(candidates)}
    projections = {c.point.method: c.adapter for c in candidates if c.point.repair.kind == "project"}
    assert {step.key for step in projections.values()} <= set(made), "the report reads them"
    for step in made.values():
        fill(store, step)
    for method, shrink in (("safelora", 0.01), ("safelora_orthogonal", 0.5)):
        (store.path(projections[method]) / REPAIR).write_text(json.dumps(asdict(Changes(14, shrink=shrink))))
    points = run_record.record(x, store, tmp_path, candidates).points
    assert {p.method: p.projection for p in points if p.projection} == {
        "safelora": Projection(projector="official", shrink=0.01),
        "safelora_orthogonal": Projection(projector="orthogonal", shrink=0.5),
    }
    assert asdict(candidates[3].point.repair)["energy"] == 0.99
    names = [c.row for c in candidates]
    assert len(set(names)) == len(names), "each variant is a row of its own"


@pytest.mark.usefixtures("hydra")
def test_a_projection_that_selects_nothing_has_none_to_report(tmp_path: Path) -> None:
    x, store = experiment("method=[safelora]", "method.safelora.tau=0.05"), Store(tmp_path)
    candidates = with_similarity(x, store, [0.1, 0.2])
    with pytest.raises(UserError, match="include merge, generate and judge"):
        run_record.record(x, store, tmp_path, candidates)
    for step in {step.key: step for step in run_record.needed(candidates)}.values():
        fill(store, step)
    assert run_record.record(x, store, tmp_path, candidates).points[0].projection is None
