"""From a synthetic run.json to the whole report: files, escaping, README block, a real browser."""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import json
import re
import shutil
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_run import EVIL, write_run

from data.schema import Verdict, read_rows
from evaluation import page, readme, results, statistics, tables
from evaluation.judge_tables import judge_lines
from evaluation.report import build_report, main, print_headline
from evaluation.run_file import read_run
from safemerge.errors import UserError


@pytest.fixture(scope="module")
def run_json(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"), n=40, fail=True)


@pytest.fixture(scope="module")
def summary(run_json, tmp_path_factory):
    return build_report(run_json, tmp_path_factory.mktemp("out") / "report")


def test_every_file_is_there(summary):
    names = {path.name for path in summary.folder.iterdir()}
    files = {"results.csv", "results.json", "similarity.csv", "report.md", "report.html", "main_table.tex"}
    assert files <= names
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
    files = point.spec.verdicts["directharm"]["guard"]
    verdicts = [row for file in files for row in read_rows(run_json.parent / file, Verdict)]
    k = sum(v.verdict == "unsafe" for v in verdicts)
    invalid = sum(v.verdict == "invalid" for v in verdicts)
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
        "| smollm2-135m-gsm8k | fine-tune | 3 | 60.0 | 110.0 | 120,000 | 2,000 | 3.00 |",
    ):
        assert part in text
    assert "unaligned" in text and "SmolLM2-135M" in text
    assert (
        "A check failed" in text
        and "RESTA-style (safety LoRA as vector) ⚠" in text
        and "SafeLoRA ⚠" not in text
    )
    assert "<script" not in text


def test_the_page_runs_its_own_script_alone(summary):
    text = html.unescape((summary.folder / "report.html").read_text())
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert "unsafe" not in policy and policy.startswith("default-src 'none'; ")
    assert "base-uri 'none'" in policy and "form-action 'none'" in policy


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
    assert "Percent:" in text and "n prompts in each" not in text  # there is no room for counts


def test_paired_tests_say_which_row_is_compared(summary):
    text = (summary.folder / "report.md").read_text()
    assert "**SafeMERGE (exact merge) minus each method, same prompts, test half**" in text
    assert (
        "**SafeMERGE (exact merge) minus each method, continuous measures, same prompts, test half**" in text
    )


def test_the_second_judge_stands_beside_its_agreement_with_the_first(summary):
    (line,) = [line for line in judge_lines(summary.groups[0]) if line.startswith("Non-refusal")]
    assert "by the phrase judge, mean over the seeds, same prompts: " in line
    assert re.search(r"the two judges have Cohen's κ [01]\.\d\d\.$", line)


def test_several_runs_make_one_report_and_a_repeated_one_is_refused(run_json, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "evaluation.report.draw", lambda groups, *_: ({i: {} for i in range(len(groups))}, [])
    )
    other = write_run(tmp_path / "b", n=16, seeds=(0,), model="tiny", task="pubmedqa")
    both = build_report([run_json, other], tmp_path / "report")
    assert [(g.model, g.task) for g in both.groups] == [("smollm2-135m", "gsm8k"), ("tiny", "pubmedqa")]
    assert {"macro_f1", "pubmedqa_accuracy"} <= {row.metric for row in both.rows}
    before = (tmp_path / "report" / "report.md").read_text()
    with pytest.raises(UserError, match="two runs hold"):
        build_report([run_json, run_json], tmp_path / "report")
    assert (tmp_path / "report" / "report.md").read_text() == before  # a failure leaves the old report


def test_the_rule_of_a_report_is_its_runs_own(tmp_path, monkeypatch):
    """And one given at the rebuild is followed instead."""
    monkeypatch.setattr("evaluation.report.draw", lambda *_: ({0: {}}, []))
    path = write_run(tmp_path, n=8, seeds=(0,))
    run = read_run(path)
    run.keep_gain = 0.65
    run.write(path)
    for share, shown in ((None, "65%"), (0.4, "40%")):
        [group] = build_report(path, tmp_path / "report", keep=share).groups
        assert f"keep at least {shown} of the utility" in group.rule


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
    path.write_text(f"top\n{readme.START}\nof yesterday\n{readme.END}\nbottom\n")
    assert readme.main([*arguments, "--check"]) == 1
    assert readme.main(arguments) == 0
    text = path.read_text()
    assert text.startswith("top\n") and text.endswith("\nbottom\n") and "of yesterday" not in text
    assert "0123456789" in text and "/20)" in text and "seeds 0," in text
    assert readme.main([*arguments, "--check"]) == 0
    assert readme.main([*arguments, "--sections", "Judges"]) == 0
    assert "## Judges" in path.read_text() and "## Selection" not in path.read_text()
    assert readme.main([*arguments, "--sections", "Nothing"]) == 2


def test_the_browser_finds_the_two_methods_that_it_compares(summary):
    """Rows have names of their own; the page's script looks for methods."""
    page_text = (summary.folder / "report.html").read_text()
    blocks = json.loads(re.search(r'id="data">(.*?)</script>', page_text, re.S)[1])
    script = (page.TEMPLATES / "report.js").read_text()
    wanted = re.findall(r'firstOf\(b, "(\w+)"\)', script)
    assert sorted(wanted) == ["finetuned", "safemerge"]
    for block in blocks:
        assert set(wanted) <= {method["method"] for method in block["methods"]}


def test_importing_everything_needs_no_torch():
    code = (
        "import sys, evaluation.report, evaluation.readme, evaluation.server_judge\n"
        "heavy = ('torch', 'scipy', 'pandas', 'matplotlib', 'jinja2', 'openai', 'sklearn')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_report_in_a_real_browser(summary, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if not browser:
        pytest.skip("no chromium on this machine (apt-get install chromium)")
    probe = """
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
    state.injected = window.injected === 1;
    state.coloured = document.body.style.color + getComputedStyle(document.querySelector("h1")).color;
    document.title = "STATE" + JSON.stringify(state) + "END";
    """
    # The policy lets the page's own script run, and here the probe; a script that got into the page would not.
    allowed = base64.b64encode(hashlib.sha256(probe.encode()).digest()).decode()
    text = (summary.folder / "report.html").read_text()
    assert text.count("script-src ") == 1
    text = text.replace("script-src ", f"script-src 'sha256-{allowed}' ")
    injected = "<script>window.injected = 1</script><style>h1 { color: rgb(1, 2, 3) }</style>"
    copy = tmp_path / "probe.html"
    copy.write_text(text.replace("</body>", f"{injected}<script>{probe}</script></body>"))
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
    assert not state["injected"] and "rgb(1, 2, 3)" not in state["coloured"]
    assert not state["pwned"] and state["images"] == 0 and state["evil"]
    assert state["cards"] == 10 and state["sorted"] == "ascending"
    assert re.match(r"[1-9]\d* of 40 prompts", state["changed"])
    assert state["none"].startswith("0 of 40")
