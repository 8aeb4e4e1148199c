"""What a report says of cost: a further point of the grid in seconds, and tokens a second of judges too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evaluation.engine import Reply
from evaluation.run_file import Cost, RunFile, read_run
from evaluation.run_tables import points_table
from pipeline.job import Job
from pipeline.judge_stage_settings import GuardJudge
from pipeline.stages import judge
from pipeline.unkeyed import Engine
from tests.unit.synthetic_run import write_run


def cost(title: str, made: int, wall_s: float, tokens: int | None = None) -> Cost:
    return Cost(
        title=title, made=made, found=0, wall_s=wall_s, cpu_s=1.0, tokens=tokens, peak_memory_bytes=2**30
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFile:
    return read_run(write_run(tmp_path_factory.mktemp("run"), seeds=(0,), n=8))


def test_a_point_costs_its_share_of_each_stage(run: RunFile) -> None:
    [entry] = run.runs
    points, files = len(entry.points), 2 * len(entry.benchmarks)  # a file of completions for each half
    made = points * files
    costs = [
        cost("generation", made - 6, 100.0, 5000),
        cost("generation, test half", 6, 20.0, 1000),
        cost("judge guard", 2 * points, 30.0),
        cost("fine-tuning", 3, 500.0),
    ]
    table = points_table([run.model_copy(update={"costs": costs})])
    rows = {row[1]: row for row in table.rows}
    assert set(rows) == {"generation", "judge", "all"}, "training is of no point"
    assert float(rows["generation"][4]) == pytest.approx(120 / made * files, abs=0.05)
    assert rows["generation"][5] == "50"  # tokens a second over both halves
    assert float(rows["all"][4]) == pytest.approx(
        float(rows["generation"][4]) + float(rows["judge"][4]), abs=0.11
    )


def test_what_was_found_costs_nothing(run: RunFile) -> None:
    assert points_table([run.model_copy(update={"costs": []})]).rows == []


def test_half_of_the_artifacts_made_is_the_same_cost_a_point(run: RunFile) -> None:
    def said(made: int, wall: float) -> str:
        return points_table([run.model_copy(update={"costs": [cost("generation", made, wall)]})]).rows[0][4]

    assert said(40, 80.0) == said(20, 40.0)


def test_a_guard_counts_what_it_reads_and_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    def generate(model: str, requests: list[Any], **how: Any) -> Any:
        return (
            Reply(r.key, "safe", 2, "stop", [1, 2], prompt_ids=r.prompt_ids, pieces=["safe"])
            for r in requests
        )

    monkeypatch.setattr(judge, "generate", generate)
    monkeypatch.setattr(judge, "guard_ids", lambda *_: [[1, 2, 3]])
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_: None)
    how = ("evaluation.guard_format.LlamaGuard", "", 0.5, 6, None, "vllm", "float32")
    job = Job("judge", {}, Engine(8, 1, 0.9, 1), {"model": Path("model")}, Path("out"))
    list(judge._ask(job, GuardJudge(*how), [("p", "a"), ("p", "b")]))
    assert job.tokens == 2 * (3 + 2)
