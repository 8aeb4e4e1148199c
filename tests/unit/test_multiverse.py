"""The verdict multiverse: which readings there are, what each counts, and what a flip is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from synthetic_run import write_run

from data.schema import Completion, read_rows, write_jsonl
from evaluation import multiverse, specifications
from evaluation.figures.multiverse import flipped_curves, specification_curves
from evaluation.multiverse_table import multiverse_table
from evaluation.paired import Difference
from evaluation.report import build_report
from evaluation.specifications import Cell, Curve


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds; a third of the fine-tuned replies to harmful prompts are empty."""
    path = write_run(tmp_path_factory.mktemp("run"), seeds=(0, 1), n=60)
    for file in path.parent.glob("seed*/finetuned*/directharm/completions-*.jsonl"):
        rows = read_rows(file, Completion)
        write_jsonl(file, [Completion(r.id, r.prompt, "") if i % 3 == 0 else r for i, r in enumerate(rows)])
    return path


def found(run: Path) -> dict[str, Curve]:
    (universes,) = multiverse.universes([run]).values()
    return {curve.id: curve for curve in specifications.curves(universes)}


def test_every_judge_with_and_without_broken_replies(run: Path) -> None:
    erosion = found(run)["erosion"]
    assert erosion.dimensions == {
        "read by": ["guard", "refusal"],
        "broken replies": ["broken replies kept", "broken left out", "broken count against"],
    }
    assert len(erosion.cells) == 6 and erosion.cells.index(erosion.headline) == 0
    of = {(c.choices["read by"], c.choices["broken replies"]): c.found for c in erosion.cells}
    assert of["guard", "broken left out"].n < of["guard", "broken replies kept"].n
    for judge in ("guard", "refusal"):
        assert of[judge, "broken count against"].difference > of[judge, "broken replies kept"].difference


def test_what_is_no_other_reading_is_not_counted_as_one(run: Path) -> None:
    """No reply of SafeMERGE's or SafeLoRA's is broken, and both parsers read every sum alike."""
    curves = found(run)
    assert [c.choices["broken replies"] for c in curves["over-safelora"].cells] == ["broken replies kept"] * 2
    assert "utility" not in curves and "criterion-null" not in curves
    assert curves["recovery-released"].says == "SafeMERGE recovers safety." and "recovery-exact" not in curves


def test_precisions_and_arithmetics_of_several_runs_are_dimensions(run: Path) -> None:
    its = json.loads(run.read_text())
    for record in its["runs"]:
        record["precision"] = {"training": "bfloat16", "generation": "bfloat16"}
        again = [p for p in record["points"] if p["method"] == "safemerge"]
        record["points"] += [
            {**p, "combine": "peft_linear", "label": p["label"] + " released"} for p in again
        ]
    other = run.parent / "other.json"
    other.write_text(json.dumps(its))
    (universes,) = multiverse.universes([run, other]).values()
    curves = {curve.id: curve for curve in specifications.curves(universes)}
    assert curves["erosion"].dimensions["precision"] == ["float32", "bfloat16"]
    assert set(curves["recovery-released"].dimensions["arithmetic"]) == {"exact merge", "released merge"}
    assert sum(cell.headline for cell in curves["recovery-released"].cells) == 1
    its["runs"][0]["precision"]["training"] = "float16"
    other.write_text(json.dumps(its))
    names = [name for found in multiverse.universes([run, other]).values() for name, _ in found]
    assert len(names) == len(set(names)) == 3


def cell(difference: float, half: float, headline: bool = False) -> Cell:
    its = Difference(50, difference, difference - half, difference + half, [difference], 0.1)
    return Cell({"read by": str(difference)}, its, headline)


def test_flips_are_counted_against_the_headline() -> None:
    cells = [cell(-0.2, 0.1, headline=True), cell(-0.2, 0.3), cell(0.1, 0.3), cell(0.3, 0.1)]
    curve = Curve("x", "Less harm.", "points", -1, 0.0, cells)
    assert [curve.significance(c) for c in cells] == [
        *("as claimed", "not significant", "not significant", "against")
    ]
    assert (curve.flipped_signs, curve.flipped_significance) == (2, 3)
    margin = Curve("y", "No more harm, up to 20 points.", "points", -1, -0.2, cells)
    assert [margin.significance(c) for c in cells] == [
        *("as claimed", "as claimed", "not significant", "not significant")
    ]
    assert (margin.flipped_signs, margin.flipped_significance) == (1, 2)
    row = multiverse_table([curve]).rows[0]
    assert row[3:5] == ["+20.0 [+10.0, +30.0] points", "-30.0 to +20.0"] and row[-2:] == ["2/4", "3/4"]
    assert not multiverse_table([curve]).marked
    calm = Curve("z", "Calm.", "nats", 1, 0.0, [cell(0.3, 0.1, headline=True), cell(0.4, 0.1)])
    assert multiverse_table([calm]).marked == {0}


def test_figures(run: Path, tmp_path: Path) -> None:
    curves = list(found(run).values())
    drawn = specification_curves(curves, "all", tmp_path / "all")
    assert {path.suffix for path in drawn} == {".png", ".svg"}
    assert specification_curves([], "none", tmp_path / "none") == []
    calm = Curve("z", "Calm.", "nats", 1, 0.0, [cell(0.3, 0.1, headline=True), cell(0.4, 0.1)])
    assert flipped_curves([calm], "calm", tmp_path / "calm") == []


def test_the_command_and_the_report(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "page"
    assert multiverse.main(["--run", str(run), "--output", str(out)]) == 0
    assert "erosion: 6 specifications" in capsys.readouterr().out
    assert "multiverse.png" in (out / "multiverse.md").read_text() and (out / "multiverse.png").exists()
    report = build_report(run, tmp_path / "report").folder
    assert "### The verdict multiverse" in (report / "report.md").read_text()
    one = json.loads(run.read_text())
    for record in one["runs"]:
        for point in record["points"]:
            point["verdicts"] = {
                b: {j: f for j, f in v.items() if j == "guard"} for b, v in point["verdicts"].items()
            }
        del record["judges"]["refusal"], record["benchmarks"]["xstest"]
        for point in record["points"]:
            for name in ("completions", "verdicts", "measures", "halves"):
                point[name].pop("xstest", None)
    single = run.parent / "single.json"
    single.write_text(json.dumps(one))
    assert "erosion" in found(single), "with one judge, broken replies can still be left out"
    assert "over-safelora" not in found(single)
    for point in (p for record in one["runs"] for p in record["points"]):
        for name in ("completions", "verdicts", "measures", "halves"):
            point[name] = {}
    single.write_text(json.dumps(one))
    assert multiverse.main(["--run", str(single), "--output", str(out)]) == 2
    assert "two ways" in capsys.readouterr().err
