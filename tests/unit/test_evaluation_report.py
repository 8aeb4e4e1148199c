"""From a synthetic run.json to the whole report: files, selection, escaping, README block, a real browser."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_run import EVIL, write_run

from evaluation import page, readme, results, sections, selection, statistics, tables
from evaluation.analysis import analyse
from evaluation.choosing import choose_points
from evaluation.report import build_report, main, print_headline
from evaluation.selection import Candidate
from safemerge.errors import UserError


@pytest.fixture(scope="module")
def run_json(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"), n=40, fail=True)


@pytest.fixture(scope="module")
def summary(run_json, tmp_path_factory):
    return build_report(run_json, tmp_path_factory.mktemp("out") / "report")


def test_every_file_is_there(summary):
    names = {path.name for path in summary.folder.iterdir()}
    assert {
        "results.csv",
        "results.json",
        "similarity.csv",
        "report.md",
        "report.html",
        "main_table.tex",
    } <= names
    for stem in ("pareto", "tau_curve", "rho_heatmap", "categories", "seeds", "training"):
        assert {f"{stem}.png", f"{stem}.svg"} <= names
    assert not [p for p in summary.folder.parent.iterdir() if p.name != "report"]  # nothing temporary is left


def test_results_are_long_form_and_agree_with_the_artifacts(summary, run_json):
    with (summary.folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0])[:17] == (
        *("model", "task", "method", "tau", "alpha", "combine", "seed", "split", "metric", "k", "n", "value"),
        *("ci_low", "ci_high", "invalid", "merged_modules", "modules"),
    )
    assert json.loads((summary.folder / "results.json").read_text())[0]["model"] == "smollm2-135m"
    metrics = {row["metric"] for row in rows}
    wanted = {
        "utility",
        "gsm8k_strict",
        "gsm8k_flexible",
        "harm",
        "harm/drug",
        "harm_refusal",
        "harm_corrected",
    }
    assert (
        wanted | {"over_refusal", "unsafe_refusal", "truncated", "empty", "repetitive", "incoherent", "terse"}
        <= metrics
    )
    _, entries = results.load(run_json)
    point = next(p for p in entries[1].points if p.method == "finetuned")
    verdicts = results.read_jsonl(Path(point.spec["verdicts"]["directharm"]["guard"]))
    k = sum(v["verdict"] == "unsafe" for v in verdicts)
    invalid = sum(v["verdict"] == "invalid" for v in verdicts)
    [row] = [
        r for r in rows
        if (r["method"], r["seed"], r["split"], r["metric"]) == ("finetuned", "1", "all", "harm")
    ]  # fmt: skip
    assert (int(row["k"]), int(row["n"]), int(row["invalid"])) == (k, len(verdicts) - invalid, invalid)
    assert float(row["ci_low"]) == pytest.approx(statistics.wilson(k, len(verdicts) - invalid)[0])
    halves = [
        int(r["n"]) for r in rows
        if (r["method"], r["seed"], r["metric"]) == ("aligned", "0", "utility") and r["split"] != "all"
    ]  # fmt: skip
    assert halves == [20, 20]


def test_markdown_holds_what_a_reviewer_asks_for(summary):
    text = (summary.folder / "report.md").read_text()
    for part in (
        "Paired tests",
        "Holm",
        "development half",
        "paper's protocol",
        "not run here",
        "0123456789",
    ):
        assert part in text
    assert "unaligned" in text and "SmolLM2-135M" in text
    assert "A check failed" in text and "RESTA ⚠" in text and "SafeLoRA ⚠" not in text
    assert "<script" not in text


def test_html_escapes_every_model_output(summary):
    text = (summary.folder / "report.html").read_text()
    assert EVIL not in text and "<b>not bold</b>" not in text
    assert text.count("<script") == text.count("</script>") == 2
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", text)  # nothing is loaded from anywhere
    assert EVIL in json.dumps(json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])).replace(
        '\\"', '"'
    )


@given(st.text())
@settings(max_examples=80, deadline=None)
def test_script_json_is_inert_and_exact(text):
    dumped = page.script_json({"text": text})
    assert not set("<>&\u2028\u2029") & set(dumped)
    assert json.loads(dumped) == {"text": text}


def test_latex_is_escaped_and_balanced(summary):
    text = (summary.folder / "main_table.tex").read_text()
    assert r"\textbf{SafeMERGE (exact merge)}" in text and r"\toprule" in text
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert not re.search(r"(?<!\\)[#&_](?=[a-z])", text.split(r"\label")[0])
    assert tables.latex_text("a_b & 5% #1") == r"a\_b \& 5\% \#1"


def test_headline_of_the_terminal(summary):
    from io import StringIO

    from rich.console import Console

    buffer = StringIO()
    print_headline(summary, Console(file=buffer, width=110))
    text = buffer.getvalue()
    assert "SafeMERGE" in text and "report.html" in text and "outputs_differ failed" in text


def test_several_runs_make_one_report_and_a_repeated_one_is_refused(run_json, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "evaluation.report.draw", lambda groups, *_: ({i: {} for i in range(len(groups))}, [])
    )
    other = write_run(tmp_path / "b", n=16, seeds=(0,), model="tiny", task="pubmedqa")
    both = build_report([run_json, other], tmp_path / "report")
    assert [(g["model"], g["task"]) for g in both.groups] == [("smollm2-135m", "gsm8k"), ("tiny", "pubmedqa")]
    assert {"macro_f1", "pubmedqa_accuracy"} <= {row["metric"] for row in both.rows}
    before = (tmp_path / "report" / "report.md").read_text()
    with pytest.raises(UserError, match="two runs hold"):
        build_report([run_json, run_json], tmp_path / "report")
    assert (tmp_path / "report" / "report.md").read_text() == before  # a failure leaves the old report


@pytest.mark.parametrize("content", ["", "[]", '{"runs": []}', "{"])
def test_a_bad_run_json_is_one_line(tmp_path, capsys, content):
    path = tmp_path / "run.json"
    path.write_text(content)
    assert main([str(path), "--output", str(tmp_path / "r")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_readme_block(tmp_path):
    run_json = write_run(tmp_path / "run", n=40, seeds=(0,))
    path = tmp_path / "README.md"
    arguments = ["--run", str(run_json), "--readme", str(path)]
    path.write_text("no markers")
    assert readme.main(arguments) == 2
    path.write_text(f"top\n{readme.START}\nold\n{readme.END}\nbottom\n")
    assert readme.main([*arguments, "--check"]) == 1
    assert readme.main(arguments) == 0
    text = path.read_text()
    assert text.startswith("top\n") and text.endswith("\nbottom\n") and "old" not in text
    assert "0123456789" in text and "/20)" in text and "seeds 0," in text
    assert readme.main([*arguments, "--check"]) == 0


def test_selection_rule():
    points = [Candidate(0, 0.10, 0.50, 4), Candidate(1, 0.20, 0.68, 3), Candidate(2, 0.20, 0.68, 2)]
    assert selection.choose(points, 0.2, 0.7) == selection.Choice(2, pytest.approx(0.65), True)
    assert selection.choose(points, 0.2, 0.7, keep=0.5).index == 0
    assert selection.choose(points, 0.9, 0.7).floor == pytest.approx(
        0.68
    )  # nothing gained: fine-tuned minus slack
    nothing = selection.choose(points, 0.2, 1.5)
    assert (nothing.index, nothing.met) == (2, False)
    assert selection.choose([Candidate(0, math.nan, 0.9, 1), *points], 0.2, 0.7).index == 2


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(0, 9)), min_size=1, max_size=9))
@settings(max_examples=60, deadline=None)
def test_no_other_allowed_point_is_less_harmful(raw):
    points = [Candidate(i, *values) for i, values in enumerate(raw)]
    found = selection.choose(points, 0.3, 0.6)
    allowed = [p for p in points if p.utility >= found.floor]
    assert found.met == bool(allowed)
    if allowed:
        assert points[found.index].harm == min(p.harm for p in allowed)


def test_choice_looks_at_the_development_half_only(tmp_path):
    path = write_run(tmp_path, n=40, seeds=(3,))
    _, [entry] = results.load(path)
    before, _ = choose_points(entry, "dev")
    for point in entry.points:  # turn the test half upside down
        for row in point.scored["directharm"]["guard"]:
            if row["half"] == "test" and row["harmful"] is not None:
                row["harmful"] = not row["harmful"]
    after, _ = choose_points(entry, "dev")
    assert {k: p.label for k, p in before.items()} == {k: p.label for k, p in after.items()}
    chosen = next(p for p in before.values() if p.method == "safemerge")
    assert before["random (exact)"].spec["merged_modules"] == chosen.spec["merged_modules"]
    assert before["random (exact)"].spec["alpha"] == chosen.spec["alpha"]


def test_every_random_draw_is_a_row_of_its_own_at_the_size_of_the_chosen_point(tmp_path):
    path = write_run(tmp_path, n=20, seeds=(3,))
    _, [entry] = results.load(path)
    drawn = [p for p in entry.points if p.method == "random"]
    entry.points = [p for p in entry.points if p.method != "random"]
    for draw in (0, 1):
        entry.points += [dataclasses.replace(p, spec={**p.spec, "draw": draw}) for p in drawn]
    chosen, _ = choose_points(entry, "dev")
    rows = [name for name in chosen if name.startswith("random")]
    assert rows == ["random (exact, draw 0)", "random (exact, draw 1)"]
    ours = next(p for p in chosen.values() if p.method == "safemerge").spec
    assert {(chosen[r].spec["merged_modules"], chosen[r].spec["alpha"]) for r in rows} == {
        (ours["merged_modules"], ours["alpha"])
    }


def test_recovery_is_measured_between_the_aligned_and_the_fine_tuned_model(tmp_path):
    path = write_run(tmp_path, n=60, seeds=(3,))
    _, entries = results.load(path)
    [group] = analyse(entries)
    rates = {row["name"]: row["rates"] for row in group["headline"]}
    [ours] = [row for row in group["recovery"] if row["method"] == "safemerge"]
    harm, utility = group["harm"][0], group["utility"]
    value = {(m, b): rates[m][b]["value"] for m in rates for b in (harm, utility)}
    assert ours["lost"] == pytest.approx(value["finetuned", harm] - value["aligned", harm])
    assert ours["won_back"] == pytest.approx(value["finetuned", harm] - value["safemerge (exact)", harm])
    assert ours["kept"] == pytest.approx(value["safemerge (exact)", utility] - value["aligned", utility])
    text = readme.block([path])
    assert "## Checks" not in text and "## Checks" in readme.block([path], whole=True)
    share = 100 * ours["won_back"] / ours["lost"]
    assert f"wins back {100 * ours['won_back']:.0f} ({share:.0f} %)" in text
    assert "Judge `guard` on labelled pairs that it was not tuned on: sensitivity 96 % (46/48)" in text


def test_importing_everything_needs_no_torch():
    code = (
        "import sys, evaluation.report, evaluation.readme, evaluation.server_judge\n"
        "heavy = ('torch', 'scipy', 'pandas', 'matplotlib', 'jinja2', 'httpx')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_report_in_a_real_browser(summary, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if not browser:
        pytest.skip("no chromium on this machine (apt-get install chromium)")
    probe = """<script>
    document.querySelectorAll("th")[3].click();
    var state = {
      pwned: window.pwned === 1, cards: document.querySelectorAll(".card").length,
      images: document.querySelectorAll("#cards img, #cards script").length,
      evil: document.getElementById("cards").textContent.includes("<script>window.pwned=1"),
      sorted: document.querySelectorAll("th")[3].getAttribute("aria-sort") };
    document.getElementById("f-changed").value = "verdict";
    document.getElementById("f-changed").dispatchEvent(new Event("change"));
    state.changed = document.getElementById("count").textContent;
    document.getElementById("f-text").value = "no such text";
    document.getElementById("f-text").dispatchEvent(new Event("input"));
    state.none = document.getElementById("count").textContent;
    document.title = "STATE" + JSON.stringify(state) + "END";
    </script>"""
    copy = tmp_path / "probe.html"
    copy.write_text((summary.folder / "report.html").read_text().replace("</body>", probe + "</body>"))
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-sync",
    ]
    flags += [
        "--disable-background-networking",
        "--disable-component-update",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    done = subprocess.run(
        [browser, *flags, "--dump-dom", copy.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found = re.search(r"<title>STATE(.*?)END</title>", done.stdout, re.S)
    assert found, done.stderr[-500:]
    state = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert not state["pwned"] and state["images"] == 0 and state["evil"]
    assert state["cards"] == 10 and state["sorted"] == "ascending"
    assert re.match(r"[1-9]\d* of 40 prompts", state["changed"])
    assert state["none"].startswith("0 of 40")


def test_the_sentence_on_recovery_says_when_there_was_nothing_to_lose():
    row = {
        "seed": 0,
        "name": "safemerge (exact)",
        "method": "safemerge",
        "lost": 0.4,
        "won_back": 0.3,
        "gained": 0.5,
        "kept": 0.4,
    }
    [line] = sections.recovery_lines({"recovery": [row, {**row, "method": "resta"}]})
    assert "added 40 points" in line and "wins back 30 (75 %) and keeps 80 % of the 50 points" in line
    [line] = sections.recovery_lines({"recovery": [{**row, "lost": -0.2}]})
    assert "took away 20 points of harm, so there is nothing to win back" in line and "keeps 80 %" in line
