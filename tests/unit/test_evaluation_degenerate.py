"""Reports of runs in which something is missing or says nothing: no `nan` in any text, no figure or axis without data."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from synthetic_run import CONF, KEEP, display, write_run

from data.schema import Completion, Item, Verdict, read_jsonl, read_rows, write_jsonl
from evaluation import figures
from evaluation.choosing import choose_points
from evaluation.judges import confusion
from evaluation.phrases import refusal_verdicts
from evaluation.report import build_report
from evaluation.results import load, load_entry
from evaluation.run_file import Display, EntryRecord, HalfName, JudgeRecord, PointRecord, read_run

Row = TypeVar("Row", Item, Completion, Verdict)
Change = Callable[[EntryRecord, Path], None]
GRIDS = ("safemerge", "random", "highest")


def rewrite(folder: Path, files: Iterable[str], kind: type[Row], change: Callable[[Row], Row]) -> None:
    """Change every row of these files of run.json."""
    paths = [folder / file for file in files]
    assert paths
    for path in paths:
        write_jsonl(path, [change(row) for row in read_rows(path, kind)])


def reply(entry: EntryRecord, folder: Path, benchmark: str, text: str) -> None:
    """Every point answers every prompt with this text, which the phrase judge reads where it reads any."""
    for point in entry.points:
        files = point.completions[benchmark]
        rewrite(folder, files, Completion, lambda row: replace(row, completion=text))
        if benchmark in point.verdicts:
            for replies, verdicts in zip(files, point.verdicts[benchmark]["refusal"], strict=True):
                write_jsonl(folder / verdicts, refusal_verdicts(read_rows(folder / replies, Completion)))


def invalid_verdicts(entry: EntryRecord, folder: Path) -> None:
    files = [file for point in entry.points for file in point.verdicts["directharm"]["guard"]]
    rewrite(folder, files, Verdict, lambda row: replace(row, verdict="invalid", p_unsafe=None))


def empty_replies(entry: EntryRecord, folder: Path) -> None:
    phrases_only(entry, folder)
    for name in ("gsm8k", "directharm", "xstest"):
        reply(entry, folder, name, "")


def no_utility(entry: EntryRecord, folder: Path) -> None:
    reply(entry, folder, "gsm8k", "I do not know.")


def one_grid_point(entry: EntryRecord, folder: Path) -> None:
    others = [p.label for p in entry.points if p.method in GRIDS][1:]
    entry.points = [p for p in entry.points if p.label not in others]


def no_similarity(entry: EntryRecord, folder: Path) -> None:
    entry.similarity = None


def empty_similarity(entry: EntryRecord, folder: Path) -> None:
    file = folder / str(entry.similarity)
    head, *rows = file.read_text().splitlines()
    blank = [re.sub(r"(proj,)[\d.]+", r"\1", row) for row in rows]
    assert blank != rows
    file.write_text("\n".join([head, *blank]) + "\n")


def one_prompt_per_category(entry: EntryRecord, folder: Path) -> None:
    files = [entry.benchmarks["directharm"].items]
    rewrite(folder, files, Item, lambda row: replace(row, category=f"kind {row.id}"))


def no_training_log(entry: EntryRecord, folder: Path) -> None:
    entry.training = {}


def diverged_training(entry: EntryRecord, folder: Path) -> None:
    log = folder / entry.training["task"]
    write_jsonl(log, [{**row, "loss": float("nan")} for row in read_jsonl(log)])


def phrases_only(entry: EntryRecord, folder: Path) -> None:
    entry.judges, entry.primary_judge = {"refusal": JudgeRecord()}, "refusal"
    for point in entry.points:
        del point.verdicts["directharm"]["guard"]


def no_calibration(entry: EntryRecord, folder: Path) -> None:
    none = confusion([], [])
    entry.judges = {name: JudgeRecord(calibration=none) for name in entry.judges}


def only(method: str) -> Change:
    def change(entry: EntryRecord, folder: Path) -> None:
        entry.points = [p for p in entry.points if p.method == method]

    return change


def no_harm_benchmark(entry: EntryRecord, folder: Path) -> None:
    entry.selection_benchmark = ""
    for name in ("directharm", "xstest"):
        del entry.benchmarks[name]
        for point in entry.points:
            del point.completions[name], point.verdicts[name], point.halves[name]


def halves_where_they_are_read(entry: EntryRecord, folder: Path) -> None:
    """As with `selection.grid: dev`: over-refusal on the test half alone, the dev half for a grid and its two ends,
    the test half for what is selected (a method without a grid always is).
    """
    selected = {point.label for point in choose_points(load_entry(entry, folder), "dev", KEEP)[0].values()}
    for point in entry.points:
        grid = point.method in GRIDS
        dev: list[HalfName] = ["dev"] if grid or point.method in ("aligned", "finetuned") else []
        test: list[HalfName] = ["test"] if point.label in selected else []
        for name, asked in {"gsm8k": dev + test, "directharm": dev + test, "xstest": test}.items():
            answer(point, name, asked)
    assert [point for point in entry.points if not point.halves.get("xstest")]


def answer(point: PointRecord, benchmark: str, asked: list[HalfName]) -> None:
    """The point answers these halves of a benchmark's prompts only."""
    kept = [half in asked for half in point.halves[benchmark]]
    judges = point.verdicts.get(benchmark, {})
    point.halves[benchmark] = asked
    point.completions[benchmark] = [
        f for f, keep in zip(point.completions[benchmark], kept, strict=True) if keep
    ]
    for judge, files in judges.items():
        judges[judge] = [f for f, keep in zip(files, kept, strict=True) if keep]
    if not asked:
        del point.halves[benchmark], point.completions[benchmark], point.verdicts[benchmark]


CASES: dict[str, tuple[Change, set[str]]] = {
    # what happened: (how, the figures that can then be drawn with one seed)
    "nothing": (lambda *_: None, {"pareto", "tau_curve", "rho_heatmap", "rho_null", "categories", "training"}),
    "all verdicts invalid": (invalid_verdicts, {"rho_heatmap", "rho_null", "training"}),
    "every reply empty": (empty_replies, {"rho_heatmap", "rho_null", "training"}),
    "utility 0 everywhere": (no_utility, {"pareto", "tau_curve", "rho_heatmap", "rho_null", "categories", "training"}),
    "one grid point": (one_grid_point, {"pareto", "rho_heatmap", "rho_null", "categories", "training"}),
    "no similarity table": (no_similarity, {"pareto", "tau_curve", "categories", "training"}),
    "no rho": (empty_similarity, {"pareto", "tau_curve", "categories", "training"}),
    "one prompt per category": (one_prompt_per_category, {"pareto", "tau_curve", "rho_heatmap", "rho_null", "training"}),
    "no training log": (no_training_log, {"pareto", "tau_curve", "rho_heatmap", "rho_null", "categories"}),
    "a loss that is no number": (
        diverged_training,
        {"pareto", "tau_curve", "rho_heatmap", "rho_null", "categories", "training"},
    ),
    "only the phrase judge": (phrases_only, {"pareto", "tau_curve", "rho_heatmap", "rho_null", "categories", "training"}),
    "no held-out pairs": (no_calibration, {"pareto", "tau_curve", "rho_heatmap", "rho_null", "categories", "training"}),
    "only the fine-tuned model": (only("finetuned"), {"rho_heatmap", "rho_null", "categories", "training"}),
    "only SafeMERGE": (only("safemerge"), {"tau_curve", "rho_heatmap", "rho_null", "categories", "training"}),
    "each half where it is read": (
        halves_where_they_are_read,
        {"pareto", "tau_curve", "rho_heatmap", "rho_null", "categories", "training"},
    ),
    "no harm benchmark": (no_harm_benchmark, {"rho_heatmap", "rho_null", "training"}),
}  # fmt: skip


def changed_run(folder: Path, change: Change, **options: Any) -> Path:
    path = write_run(folder, evil="", **options)
    run = read_run(path)
    for entry in run.runs:
        change(entry, folder)
    run.write(path)
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
    def rare(entry: EntryRecord, folder: Path) -> None:
        def category(row: Item) -> str:
            return "malware" if row.category == "malware" else "rare" if row.id == "h2" else "drug"

        files = [entry.benchmarks["directharm"].items]
        rewrite(folder, files, Item, lambda row: replace(row, category=category(row)))

    run = changed_run(tmp_path / "run", rare, seeds=(0,), n=60)
    build_report(run, tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    assert "Left out, with fewer than 5 prompts: rare." in text
    assert "| malware |" not in text or "| rare |" not in text
    assert "categories" in axes


def test_methods_look_different_and_so_do_the_two_arithmetics() -> None:
    names = [path.stem for path in (CONF / "method").glob("*.yaml")]
    looks = {name: (display(name).colour, display(name).marker) for name in names}
    looks["a method of yours"] = (Display().colour, Display().marker)
    assert {"safemerge", "safemerge_released", "random_k"} <= set(looks)
    assert len(set(looks.values())) == len(looks), looks


def test_a_method_is_drawn_as_its_configuration_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, tuple[str, str]] = {}

    def look(self: Any, path: Path, **options: Any) -> None:
        for handle, label in zip(*self.axes[0].get_legend_handles_labels(), strict=True):
            if isinstance(handle, ErrorbarContainer):  # a selected point, not the grid
                drawn[label] = (handle[0].get_color(), handle[0].get_marker())

    def yours(entry: EntryRecord, folder: Path) -> None:
        for point in entry.points:
            if point.method == "resta":
                point.display = Display()

    monkeypatch.setattr(Figure, "savefig", look)
    _, [entry] = load(changed_run(tmp_path, yours, seeds=(0,), n=16))
    chosen, _ = choose_points(entry, "dev", KEEP)
    figures.pareto(entry, chosen, tmp_path / "pareto")
    shown = display("safemerge")
    assert drawn["SafeMERGE (exact merge)"] == (shown.colour, shown.marker)
    assert drawn["resta"] == (Display().colour, Display().marker)
    assert drawn == {name: (p.spec.display.colour, p.spec.display.marker) for name, p in chosen.items()}
