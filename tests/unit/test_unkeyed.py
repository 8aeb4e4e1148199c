"""What a stage is told outside the key reaches it as the plan gave it, and only in the form that it reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import initialize_config_dir

from pipeline import answers, lm_eval, run_record
from pipeline.job import Job
from pipeline.settings import Config
from pipeline.store import Step, Store
from pipeline.unkeyed import FORMS, Engine, Share, Unkeyed, Whole, read, written
from tests.planning import experiment

CONF = Path(__file__).resolve().parents[2] / "conf"
SERVER = ("judge=[guard,refusal,server]", "judge.server.id=m", "judge.server.base_url=http://x/v1")


@pytest.fixture(autouse=True, scope="module")
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def through_json(its: Unkeyed) -> Unkeyed:
    return read(json.loads(json.dumps(written(its))))


def test_every_form_of_a_plan_comes_through_as_it_was(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "config.json").write_text("{}")
    x = experiment(*SERVER, "~model.aligned", f"+model.aligned={{kind:local,path:{own}}}", "train.devices=2")
    steps: list[Step] = [*x.prepared, x.base, x.aligned, *x.trained, *x.judge_models.values()]
    replies = answers.completions(x, x.adapters["task"], "directharm", "dev")
    steps += [replies, *(answers.verdicts(x, replies, judge) for judge in x.config.judge)]
    steps.append(run_record.checks_step(x, Store(tmp_path / "store"), []))
    steps += lm_eval.steps(x, x.adapters["task"], lm_eval.Asked(["ifeval"]))
    assert {type(step.unkeyed) for step in steps} == set(FORMS.values())
    for step in steps:
        assert through_json(step.unkeyed) == step.unkeyed
    [whole] = [step.unkeyed for step in steps if isinstance(step.unkeyed, Whole)]
    assert Config.model_validate(whole.config) == x.config


def test_a_stage_that_reads_another_form_than_it_is_given_fails() -> None:
    its = Job("task LoRA", {}, Share(2, 4, 1), {}, Path())
    assert its.beside(Share).devices == 2
    with pytest.raises(TypeError, match=r"task LoRA is told Share.*, not Engine"):
        its.beside(Engine)
