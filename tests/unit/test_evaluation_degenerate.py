"""Reports of runs in which something is missing or says nothing: no `nan` in any text, no figure or axis without data."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from synthetic_run import write_run

from evaluation import figures
from evaluation.report import build_report

Change = Callable[[dict[str, Any], Path], None]


def rewrite(folder: Path, pattern: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change every row of the JSON-lines files that match."""
    files = list(folder.glob(pattern))
    assert files, pattern
    for file in files:
        rows = [change(json.loads(line)) for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def invalid_verdicts(entry: dict[str, Any], folder: Path) -> None:
    rewrite(folder, "*/*/directharm.guard.jsonl", lambda row: {**row, "verdict": "invalid", "p_unsafe": None})


def empty_replies(entry: dict[str, Any], folder: Path) -> None:
    phrases_only(entry, folder)
    for name in ("gsm8k", "directharm", "xstest"):
        rewrite(folder, f"*/*/{name}.jsonl", lambda row: {**row, "completion": ""})


def no_utility(entry: dict[str, Any], folder: Path) -> None:
    rewrite(folder, "*/*/gsm8k.jsonl", lambda row: {**row, "completion": "I do not know."})


def one_grid_point(entry: dict[str, Any], folder: Path) -> None:
    grid = [p for p in entry["points"] if p["method"] in ("safemerge", "random", "highest")]
    entry["points"] = [p for p in entry["points"] if p not in grid[1:]]


def no_similarity(entry: dict[str, Any], folder: Path) -> None:
    entry["similarity"] = None


def empty_similarity(entry: dict[str, Any], folder: Path) -> None:
    for file in folder.glob("*/similarity.csv"):
        head, *rows = file.read_text().splitlines()
        blank = [re.sub(r"(proj,)[\d.]+", r"\1", row) for row in rows]
        file.write_text("\n".join([head, *blank]) + "\n")


def one_prompt_per_category(entry: dict[str, Any], folder: Path) -> None:
    rewrite(folder, "*/items-directharm.jsonl", lambda row: {**row, "category": f"kind {row['id']}"})


def no_training_log(entry: dict[str, Any], folder: Path) -> None:
    entry["training"] = {}


def diverged_training(entry: dict[str, Any], folder: Path) -> None:
    rewrite(folder, "*/task.jsonl", lambda row: {**row, "loss": float("nan")})


def phrases_only(entry: dict[str, Any], folder: Path) -> None:
    entry["judges"], entry["primary_judge"] = {"refusal": {}}, "refusal"
    for point in entry["points"]:
        point["verdicts"] = {}


def no_calibration(entry: dict[str, Any], folder: Path) -> None:
    entry["judges"] = {"guard": {"calibration": dict.fromkeys(("n", "tp", "fp", "tn", "fn", "invalid"), 0)}}


def only(method: str) -> Change:
    def change(entry: dict[str, Any], folder: Path) -> None:
        entry["points"] = [p for p in entry["points"] if p["method"] == method]

    return change


def no_harm_benchmark(entry: dict[str, Any], folder: Path) -> None:
    for name in ("directharm", "xstest"):
        entry["benchmarks"].pop(name)
        for point in entry["points"]:
            point["completions"].pop(name)
            point["verdicts"].pop(name, None)


def halves_where_they_are_read(entry: dict[str, Any], folder: Path) -> None:
    """As with `selection.grid: dev`: over-refusal on the test half alone, and the dev half for a grid and its two ends."""
    for point in entry["points"]:
        grid = point["method"] in ("safemerge", "random", "highest")
        dev = ["dev"] if grid or point["method"] in ("aligned", "finetuned") else []
        test = [] if grid and point["alpha"] == 0.5 else ["test"]
        point["halves"] = {"gsm8k": dev + test, "directharm": dev + test, "xstest": test}
        if not test:
            del point["completions"]["xstest"], point["halves"]["xstest"]
        for name, answered in point["halves"].items():
            ids = {
                row["id"]
                for row in map(
                    json.loads, (folder / entry["benchmarks"][name]["items"]).read_text().splitlines()
                )
                if row["half"] in answered
            }
            for file in [point["completions"][name], *point["verdicts"].get(name, {}).values()]:
                rows = [
                    row for row in map(json.loads, Path(file).read_text().splitlines()) if row["id"] in ids
                ]
                Path(file).write_text("".join(json.dumps(row) + "\n" for row in rows))


CASES: dict[str, tuple[Change, set[str]]] = {
    # what happened: (how, the figures that can then be drawn with one seed)
    "nothing": (lambda *_: None, {"pareto", "tau_curve", "rho_heatmap", "categories", "training"}),
    "all verdicts invalid": (invalid_verdicts, {"rho_heatmap", "training"}),
    "every reply empty": (empty_replies, {"rho_heatmap", "training"}),
    "utility 0 everywhere": (no_utility, {"pareto", "tau_curve", "rho_heatmap", "categories", "training"}),
    "one grid point": (one_grid_point, {"pareto", "rho_heatmap", "categories", "training"}),
    "no similarity table": (no_similarity, {"pareto", "tau_curve", "categories", "training"}),
    "no rho": (empty_similarity, {"pareto", "tau_curve", "categories", "training"}),
    "one prompt per category": (one_prompt_per_category, {"pareto", "tau_curve", "rho_heatmap", "training"}),
    "no training log": (no_training_log, {"pareto", "tau_curve", "rho_heatmap", "categories"}),
    "a loss that is no number": (
        diverged_training,
        {"pareto", "tau_curve", "rho_heatmap", "categories", "training"},
    ),
    "only the phrase judge": (phrases_only, {"pareto", "tau_curve", "rho_heatmap", "categories", "training"}),
    "no calibration pairs": (no_calibration, {"pareto", "tau_curve", "rho_heatmap", "categories", "training"}),
    "only the fine-tuned model": (only("finetuned"), {"rho_heatmap", "categories", "training"}),
    "only SafeMERGE": (only("safemerge"), {"tau_curve", "rho_heatmap", "categories", "training"}),
    "each half where it is read": (
        halves_where_they_are_read,
        {"pareto", "tau_curve", "rho_heatmap", "categories", "training"},
    ),
    "no harm benchmark": (no_harm_benchmark, {"rho_heatmap", "training"}),
}  # fmt: skip


def changed_run(folder: Path, change: Change, **options: Any) -> Path:
    path = write_run(folder, evil="", **options)
    run = json.loads(path.read_text())
    for entry in run["runs"]:
        change(entry, folder)
    path.write_text(json.dumps(run))
    return path


def finite_points(ax: Any) -> int:
    """How many finite data points an axis shows."""
    found = [np.asarray(line.get_xydata(), dtype=float) for line in ax.get_lines()]
    found += [np.asarray(c.get_offsets(), dtype=float) for c in ax.collections]
    counts = [int(np.isfinite(xy).all(axis=1).sum()) for xy in found if xy.size]
    counts += [int(np.isfinite(np.ma.filled(image.get_array(), np.nan)).sum()) for image in ax.images]
    counts += [
        sum(np.isfinite(p.get_height()) for p in c.patches) for c in ax.containers if hasattr(c, "patches")
    ]
    return sum(counts)


@pytest.fixture
def axes(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """Finite data points per axis of every figure that is saved, by its name."""
    seen: dict[str, list[int]] = {}
    save = Figure.savefig

    def watched(self: Any, path: Path, **options: Any) -> None:
        shown = [ax for ax in self.axes if ax.get_label() != "<colorbar>"]
        seen[Path(path).stem] = [finite_points(ax) for ax in shown]
        if Path(path).suffix == ".png":  # the SVG would tell nothing more
            save(self, path, **options)
        else:
            Path(path).touch()

    monkeypatch.setattr(Figure, "savefig", watched)
    return seen


def words(text: str) -> str:
    """A page's text and data: without embedded pictures, whose code may spell anything, and the page's own program."""
    text = re.sub(r"data:image/png;base64,[\w+/=]+", "", text)
    return re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("case", CASES)
def test_no_nan_and_no_empty_figure(case: str, tmp_path: Path, axes: dict[str, list[int]]) -> None:
    change, drawn = CASES[case]
    run = changed_run(tmp_path / "run", change, seeds=(0,), n=48)
    summary = build_report(run, tmp_path / "report")
    for name in ("report.md", "report.html", "main_table.tex", "analysis.json"):
        text = words((tmp_path / "report" / name).read_text())
        found = re.search(r".{0,60}\bnan\b.{0,60}", text, re.IGNORECASE)
        assert not found, f"{name}: {found and found[0]}"
    assert set(axes) == drawn == {path.stem for path in summary.figures}
    assert all(number for numbers in axes.values() for number in numbers), axes


def test_seeds_without_a_rate_are_not_drawn(tmp_path: Path, axes: dict[str, list[int]]) -> None:
    run = changed_run(tmp_path / "run", empty_replies, seeds=(0, 1), n=16)
    build_report(run, tmp_path / "report")
    assert len(axes["seeds"]) == 1, "of an empty reply only the answer can be scored"
    assert all(axes["seeds"])


def test_categories_of_few_prompts_are_left_out_with_a_note(
    tmp_path: Path, axes: dict[str, list[int]]
) -> None:
    def rare(entry: dict[str, Any], folder: Path) -> None:
        kinds = {"malware": "malware"}
        rewrite(
            folder,
            "*/items-directharm.jsonl",
            lambda row: {
                **row,
                "category": kinds.get(row["category"], "rare" if row["id"] == "h2" else "drug"),
            },
        )

    run = changed_run(tmp_path / "run", rare, seeds=(0,), n=60)
    build_report(run, tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    assert "Left out, with fewer than 5 prompts: rare." in text
    assert "| malware |" not in text or "| rare |" not in text
    assert "categories" in axes


def test_the_two_arithmetics_look_different() -> None:
    assert figures.style("safemerge (peft_linear)") != figures.style("safemerge (exact)")
    assert figures.style("safemerge") == figures.style("safemerge (peft_linear)")
    assert figures.style("a method of yours")
