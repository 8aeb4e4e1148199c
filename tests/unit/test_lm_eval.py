"""lm-evaluation-harness on rows of a report: its columns, and its own command on a task of two lines, without a network."""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir

from evaluation import harness
from evaluation.harness import Score
from evaluation.report import build_report
from evaluation.run_file import read_run
from pipeline import integrity, lm_eval, run_record
from pipeline.stage_settings import Harness
from pipeline.stages.lm_eval import scores_of
from pipeline.store import Store
from safemerge.errors import UserError
from tests.pico import write_lora
from tests.planning import experiment, fill, with_similarity
from tests.unit.synthetic_run import write_run

CONF = Path(__file__).resolve().parents[2] / "conf"
SCORE = Score("ifeval", "strict", "none", 0.412, 0.021, 541, None, True, "0.4.13")
TASK = """
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: ["1", "2"]
doc_to_target: "{{['1', '2'].index(answer)}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
#: Parts of the harness that its tasks need and the locks leave out.
NEEDED = ("lm_eval", "evaluate", "sacrebleu", "pytablewriter", "sqlitedict", "more_itertools")
ABSENT = [name for name in NEEDED if importlib.util.find_spec(name) is None]
installed = pytest.mark.skipif(
    bool(ABSENT),
    reason=f"{', '.join(ABSENT)} not installed: pip install --no-deps -r requirements/lm-eval.txt",
)


@pytest.fixture
def run_json(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", n=12)


def with_scores(run_json: Path, label: str, *scores: list[Score]) -> None:
    """One list of scores for each seed, of the point with that label."""
    run = read_run(run_json)
    for entry, its in zip(run.runs, scores, strict=True):
        [point] = [point for point in entry.points if point.label == label]
        name = f"scores-{entry.seed}.json"
        harness.write(run_json.parent / name, its)
        point.harness = [name]
    run.write(run_json)


def test_scores_are_columns_of_the_headline_table(run_json: Path, tmp_path: Path) -> None:
    with_scores(run_json, "aligned", [SCORE], [replace(SCORE, value=0.5)])
    report = build_report(run_json, tmp_path / "report")
    table = report.tables[0]
    column = table.columns.index("ifeval (strict) ↑")
    cells = {row[0]: row[column] for row in table.rows}
    assert cells["Aligned (not fine-tuned)"] == "0.456 (0.412; 0.500; n=541)"
    assert {text for name, text in cells.items() if "Aligned" not in name} == {"–"}
    assert "lm-evaluation-harness 0.4.13" in table.note
    assert "ifeval (strict) ↑" in (report.folder / "report.html").read_text()
    assert "ifeval (strict)" in (report.folder / "main_table.tex").read_text()


def test_one_seed_has_the_harness_own_error(run_json: Path) -> None:
    assert harness.cell([SCORE])[0] == "0.412 ± 0.041 (n=541)"
    assert harness.cell([replace(SCORE, stderr=math.nan)])[0] == "0.412 (n=541)"
    assert harness.cell(None)[0] == "–"
    worse = replace(SCORE, higher_is_better=False, filter="last", limit=50)
    assert worse.column == "ifeval (strict, last, first 50) ↓"


def test_a_report_without_scores_has_no_such_column(run_json: Path, tmp_path: Path) -> None:
    table = build_report(run_json, tmp_path / "report").tables[0]
    assert not [name for name in table.columns if "(" in name and "stand-in" not in name]
    assert "lm-evaluation-harness" not in table.note


def test_scores_that_are_gone_are_one_line(run_json: Path, tmp_path: Path) -> None:
    with_scores(run_json, "aligned", [SCORE], [SCORE])
    (run_json.parent / "scores-1.json").write_text("[{}]")
    with pytest.raises(UserError, match=r"scores-1.json .*pipeline.lm_eval again"):
        build_report(run_json, tmp_path / "report")


def test_only_the_tasks_own_numbers_are_scores() -> None:
    its = Harness("mmlu", 10, None, True, None, "hf", "float32", "", "0.4.13")
    found = {
        "results": {
            "mmlu": {"alias": "mmlu", "acc,none": 0.25, "acc_stderr,none": "N/A", "sample_len": 4},
            "mmlu_law": {"acc,none": 0.5, "acc_stderr,none": 0.1},
        },
        "higher_is_better": {"mmlu": {"acc": True}},
        "group_subtasks": {"mmlu": ["mmlu_law", "mmlu_art"]},
        "n-samples": {"mmlu_law": {"effective": 10}, "mmlu_art": {"effective": 7}},
    }
    [score] = scores_of(found, its)
    assert (score.metric, score.value, score.n, score.limit) == ("acc", 0.25, 17, 10)
    assert math.isnan(score.stderr)


def test_a_row_is_a_name_of_the_report_or_a_label(run_json: Path) -> None:
    from evaluation.results import load

    _, entries = load(run_json)
    label = entries[0].points[-1].label
    assert lm_eval.label_of(entries[0], label, 0.95) == label
    assert lm_eval.label_of(entries[0], "Fine-tuned", 0.95) == "finetuned"
    with pytest.raises(UserError, match="did you mean Fine-tuned"):
        lm_eval.label_of(entries[0], "Fine-tunde", 0.95)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tasks", ","], "at least one task"),
        (["--tasks", "ifeval", "--limit", "0"], "--limit"),
        (["--tasks", "ifeval", "--include-path", "nowhere"], "no such folder"),
        (["--tasks", "ifeval"], "cannot read"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = lm_eval.main(["--run", "no/run.json", "--row", "x", *arguments])
    error = capsys.readouterr().err
    assert code == 2 and said in error and len(error.splitlines()) == 1


def test_the_key_holds_what_the_result_depends_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_eval, "harness_version", lambda: "0.4.13")
    (tmp_path / "sums.yaml").write_text(TASK)
    asked = lm_eval.Asked(["sums"], include_path=tmp_path)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        x = experiment()

    def key(its: lm_eval.Asked, adapter: Any = None) -> str:
        return lm_eval.steps(x, adapter, its)[0].key

    first = key(asked)
    others = [
        replace(asked, limit=3),
        replace(asked, fewshot=2),
        replace(asked, chat=False),
        replace(asked, backend="vllm"),
        replace(asked, include_path=None),
    ]
    assert first not in {key(its) for its in others} and len({key(its) for its in others}) == len(others)
    assert key(replace(asked, batch_size=1)) == first, "what changes no result is in no key"
    assert key(asked, x.adapters["task"]) != first
    (tmp_path / "sums.yaml").write_text(TASK + "# another\n")
    assert key(asked) != first


def test_run_json_lists_what_the_store_holds_of_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lm_eval, "harness_version", lambda: "0.4.13")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        x = experiment("method=[aligned,finetuned,ptst,safemerge]")
    store = Store(tmp_path)
    rows = {its.point.method: its for its in with_similarity(x, store, [0.1, 0.2, 0.3])}
    places = {}
    for name, chat in (("safemerge", True), ("finetuned", True), ("ptst", True), ("aligned", False)):
        asked = lm_eval.Asked(["ifeval"], chat=chat)
        [step] = lm_eval.steps(x, rows[name].adapter, asked, rows[name].point.system_prompt)
        place = fill(store, step)
        inputs = {role: source.key for role, source in step.inputs.items()}
        made = {"inputs": inputs, "settings": step.settings, "created": "2026"}
        old = json.loads((place / "manifest.json").read_text())
        (place / "manifest.json").write_text(json.dumps(integrity.sealed({**old, **made})))
        places[name] = [place / "scores.json"]
    assert rows["ptst"].adapter.key == rows["finetuned"].adapter.key, "and yet each has its own scores"
    found = run_record._harness(store)
    assert {name: run_record.scores_of(x, its, found) for name, its in rows.items()} == places
    (places["safemerge"][0].parent / "manifest.json").write_text('{"inputs": {')
    assert len(run_record._harness(store)) == len(found) - 1, "what is damaged is not shown"
    with pytest.raises(UserError, match="--no-chat leaves out the safety prompt"):
        lm_eval.steps(
            x, rows["ptst"].adapter, lm_eval.Asked(["ifeval"], chat=False), rows["ptst"].point.system_prompt
        )


@installed
def test_a_local_task_on_a_model_and_its_adapter(tmp_path: Path) -> None:
    """The stage itself, through the harness's own `hf` backend and PEFT."""
    from pipeline.job import Job, begin
    from pipeline.stages import lm_eval as stage
    from pipeline.unkeyed import Tasks
    from tests.finished_run import tokenizer

    rows = [{"question": f"{n} + 0 =", "answer": str(n)} for n in (1, 2, 2)]
    (tmp_path / "tasks").mkdir()
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks" / "sums.yaml").write_text(TASK.replace("FILE", str(tmp_path / "rows.jsonl")))
    model = tiny_model(tmp_path, tokenizer())
    adapter = write_lora(tmp_path / "adapter", alpha=64, base=str(model))
    settings = Harness("sums", None, None, False, None, "hf", "float32", "", "0.4.13")
    told = Tasks(str(tmp_path / "tasks"), 2, 0.9, 1)
    jobs = []
    for name, inputs in {"bare": {}, "lora": {"adapter": adapter}}.items():
        (tmp_path / name).mkdir()
        key = "cafe" if inputs else ""
        jobs.append(Job(name, settings.keyed(), told, {"model": model, **inputs}, tmp_path / name, key))
    begin(2)
    stage.run(jobs)
    scores = {job.name: harness.read(job.output / "scores.json") for job in jobs}
    for [score] in scores.values():
        assert (score.task, score.metric, score.n, score.higher_is_better) == ("sums", "acc", 3, True)
        assert 0 <= score.value <= 1 and score.stderr >= 0
    results = {name: json.loads((tmp_path / name / "results.json").read_text()) for name in scores}
    assert results["bare"]["results"]["sums"]["acc,none"] == scores["bare"][0].value
    job = replace(jobs[0], settings={**jobs[0].settings, "task": "nosuchtask"})
    with pytest.raises(UserError, match="lm-eval has no task nosuchtask"):
        stage.run([job])


def tiny_model(folder: Path, tokenizer: Any) -> Path:
    """A pico model that reads the bytes of any text."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests import pico

    aligned = folder / "model"
    sizes = {"hidden_size": pico.HIDDEN, "intermediate_size": pico.MIDDLE, "num_hidden_layers": pico.LAYERS}
    heads = {"num_attention_heads": pico.HEADS, "num_key_value_heads": pico.KV_HEADS}
    LlamaForCausalLM(LlamaConfig(vocab_size=320, **sizes, **heads)).save_pretrained(aligned)
    tokenizer.save_pretrained(aligned)
    return aligned
