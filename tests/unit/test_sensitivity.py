"""Damage, the order of the repairs and the frontier over settings of the fine-tuning."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import write_run

from evaluation import attack, sensitivity


def setting(run: Path, name: str, train: dict[str, Any], swap: dict[str, str] | None = None) -> Path:
    """A run.json beside the other one, of another setting; `swap`: rows that answer as another row does."""
    its = json.loads(run.read_text())
    its["config"]["train"] = train
    its["settings"] = name
    for record in its["runs"]:
        files = {point["method"]: point for point in record["points"]}
        for point in record["points"]:
            if other := files.get((swap or {}).get(point["method"], "")):
                point.update({key: other[key] for key in ("completions", "verdicts", "measures")})
    path = run.parent / f"{name}.json"
    path.write_text(json.dumps(its))
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A mild fine-tuning that changes nothing, two strong ones, and one whose SafeInstruct fails."""
    run = write_run(tmp_path_factory.mktemp("run"), seeds=(0, 1), n=120, controls=("random_k",))
    args = {"num_train_epochs": 1}
    return [
        setting(run, "mild", {"args": {**args, "learning_rate": 1e-5}}, {"finetuned": "aligned"}),
        setting(
            run,
            "strong",
            {"args": {**args, "learning_rate": 1e-5}, "task": {"args": {"learning_rate": 3e-4}}},
        ),
        setting(run, "longer", {"args": {"num_train_epochs": 2, "learning_rate": 3e-4}}),
        setting(
            run,
            "other",
            {"args": {"num_train_epochs": 3, "learning_rate": 3e-4}},
            {"safeinstruct": "finetuned", "finetuned": "safeinstruct"},
        ),
    ]


@pytest.fixture(scope="module")
def sweep(runs: list[Path]) -> attack.Sweep:
    (found,) = attack.sweeps(runs)
    return found


def test_settings_are_told_by_what_differs_and_overrides_count(sweep: attack.Sweep) -> None:
    assert {s.name for s in sweep.settings} == {
        "learning rate 1e-05, epochs 1",
        "learning rate 0.0003, epochs 1",
        "learning rate 0.0003, epochs 2",
        "learning rate 0.0003, epochs 3",
    }
    assert all(s.seeds == [0, 1] for s in sweep.settings)


def test_damage_is_seen_where_it_is(sweep: attack.Sweep) -> None:
    of = {s.name: s for s in sweep.settings}
    mild, strong = of["learning rate 1e-05, epochs 1"], of["learning rate 0.0003, epochs 1"]
    assert mild.damage and mild.damage.difference == 0 and not mild.damaged
    assert strong.damage and strong.damage.difference > 0.3 and strong.damaged
    assert sweep.settings[0] is mild, "in order of the utility that fine-tuning reaches"
    assert "finetuned" not in {cell.method for cell in strong.repairs.values()}
    assert not any(cell.display.control for cell in strong.repairs.values())


def test_the_order_of_the_repairs(sweep: attack.Sweep) -> None:
    rows = {(row.one.name, row.other.name): row for row in attack.orders(sweep)}
    assert len(rows) == 6
    same = next(
        row
        for pair, row in rows.items()
        if {"epochs 1", "epochs 2"} == {name[-8:] for name in pair} and "1e" not in pair[0] + pair[1]
    )
    others = [row for pair, row in rows.items() if any("epochs 3" in name for name in pair)]
    assert same.kendall == pytest.approx(1) and same.repairs == 5
    assert len(others) == 3 and all(row.kendall < 1 for row in others)


def test_the_frontier_is_chosen_on_dev_and_shown_on_test(sweep: attack.Sweep) -> None:
    wanted = attack.levels(sweep)
    assert wanted == sorted(wanted) and len(wanted) == len(attack.LEVELS)
    rows = {row.name: row for row in attack.frontier(sweep)}
    for row in rows.values():
        for level, its in zip(wanted, row.cells, strict=True):
            every = [
                c for s in sweep.settings for c in s.cells if c.name == row.name and c.dev_utility >= level
            ]
            assert (its is None) == (not every)
            if its:
                assert its[0].dev_harm == min(c.dev_harm for c in every) and its[0].dev_utility >= level
    assert any(its is None for row in rows.values() for its in row.cells)


def test_a_row_without_a_development_half_is_not_said_to_reach_nothing(sweep: attack.Sweep) -> None:
    def blind(cell: attack.Cell) -> attack.Cell:
        return replace(cell, dev_harm=math.nan, dev_utility=math.nan) if cell.method == "safelora" else cell

    settings = [replace(s, cells=[blind(cell) for cell in s.cells]) for s in sweep.settings]
    found = replace(sweep, settings=settings)
    assert [row.name for row in attack.frontier(found) if not row.known] == ["SafeLoRA"]
    table = sensitivity.frontier_table(found)
    cells = {row[0]: row[1:] for row in table.rows}
    assert {str(cell) for cell in cells["SafeLoRA"]} == {"–"} and "not tuned, so it did not" in table.note
    assert "not tuned, so it did not" not in sensitivity.frontier_table(sweep).note


def test_another_aligned_model_is_said(sweep: attack.Sweep) -> None:
    assert "aligned model is not the same" not in sensitivity.settings_table(sweep).note
    first, *others = sweep.settings
    strange = replace(first.cells[0].harm, value=0.77)
    moved = [replace(c, harm=strange) if c.method == "aligned" else c for c in first.cells]
    found = replace(sweep, settings=[replace(first, cells=moved), *others])
    assert "aligned model is not the same" in sensitivity.settings_table(found).note


def test_the_command_writes_a_page_and_a_figure(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "deep" / "sensitivity.md"
    assert sensitivity.main([*map(str, runs), "--output", str(page)]) == 0
    text = page.read_text()
    assert "sensitivity.png" in text and page.with_suffix(".png").exists()
    assert "Kendall" in text and "Harm at matched utility" in text and "not reached" in text
    assert "learning rate 0.0003, epochs 1: damage +" in capsys.readouterr().out


def test_between_the_markers_of_a_page_that_has_text_of_its_own(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "prose.md"
    page.write_text("Before.\n")
    assert sensitivity.main([*map(str, runs), "--page", str(page)]) == 2
    assert "results:start" in capsys.readouterr().err
    assert page.read_text() == "Before.\n" and not (tmp_path / "figures").exists()
    page.write_text("Before.\n\n<!-- results:start -->old<!-- results:end -->\n\nAfter.\n")
    for _ in range(2):
        assert sensitivity.main([*map(str, runs), "--page", str(page)]) == 0
        text = page.read_text()
        assert text.startswith("Before.\n") and text.endswith("\nAfter.\n") and "old" not in text
        assert text.count("Kendall's τ | p") == 1 and "(figures/prose.png)" in text
    assert (tmp_path / "figures" / "prose.png").exists()


def test_what_cannot_be_compared_is_one_line(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    assert sensitivity.main([str(runs[0]), "--output", str(page)]) == 2
    assert "differ in learning rate" in capsys.readouterr().err and not page.exists()
    again = setting(runs[1], "again", json.loads(runs[1].read_text())["config"]["train"])
    assert sensitivity.main([*map(str, runs), str(again), "--output", str(page)]) == 2
    assert "give one of them" in capsys.readouterr().err
