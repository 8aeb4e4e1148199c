"""What an experiment takes, on its terms: more work takes more, what jobs share counts once, guesses are called so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from pipeline import budget, needs, plan
from pipeline.budget import A100
from pipeline.config import check
from pipeline.memory import training

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.fixture(autouse=True, scope="module")
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def experiment(*overrides: str) -> plan.Experiment:
    return plan.build(check(compose("config", ["model=llama3.1-8b", *overrides])))


def of(*overrides: str) -> budget.Budget:
    x = experiment(*overrides)
    return budget.budget([(x, budget.work(x))])


def test_training_counts_tokens_times_weights() -> None:
    x = experiment("train.task.limit=1000", "train.safety.limit=1000", "method=[aligned,finetuned]")
    [tokens] = budget.work(x).trained.values()  # the task's LoRA alone is needed
    assert tokens == 1000 * 3 * budget.ROW_TOKENS
    seconds = tokens * 6 * needs.shape_of(x)[0].parameters / (budget.TRAINS * A100.flops) + budget.START_S
    assert of("train.task.limit=1000", "train.safety.limit=1000", "method=[aligned,finetuned]").hours[
        "finetune"
    ] == pytest.approx(seconds / 3600)


def test_more_work_takes_longer_and_a_faster_card_less() -> None:
    x = experiment("train.task.limit=2000")
    less, more = of("train.task.limit=2000"), of("train.task.limit=4000")
    assert more.hours["finetune"] > 1.1 * less.hours["finetune"]
    assert more.hours["generate"] == less.hours["generate"]
    twice = replace(A100, flops=2 * A100.flops, bandwidth=2 * A100.bandwidth)
    assert budget.budget([(x, budget.work(x))], twice).total < 0.7 * less.total
    few = of("train.task.limit=2000", "data.limits.items={gsm8k: 100, directharm: 50, xstest: 50}")
    assert few.hours["generate"] < 0.5 * less.hours["generate"] and few.hours["judge"] < less.hours["judge"]


def test_jobs_share_what_they_have_in_common() -> None:
    one = budget.work(experiment())
    again, other = one | budget.work(experiment()), one | budget.work(experiment("seed=1"))
    assert again == one
    assert len(other.trained) == 2 * len(one.trained) and other.models == one.models


def test_another_safety_lora_is_another_merge() -> None:
    some, more = (budget.work(experiment(f"train.safety.limit={n}")) for n in (100, 500))
    shared, merged = len(some.asked.keys() & more.asked.keys()), len((some | more).asked)
    assert shared and merged > 1.5 * len(some.asked), "the ends are the same; what is merged is not"


def test_an_experiment_is_all_its_jobs_but_for_what_is_given() -> None:
    assert len(budget.jobs(["experiment=paper"])) == 24
    three = budget.jobs(["experiment=paper", "model=qwen2-7b", "task=gsm8k"])
    assert len(three) == 3 and all("model=qwen2-7b" in job for job in three)
    assert budget.jobs(["model=qwen2-7b"]) == [["model=qwen2-7b"]]


def test_every_number_says_what_it_is() -> None:
    said = budget.line(of())
    assert said.count("guess") >= 3 and "counted" in said


def test_the_hardware_configs_fit_their_cards() -> None:
    """What they promise: a model of 8 billion parameters trains and is served on 24 and on 80 GB."""
    for hardware, gib in (("1x24gb", 24e9 / 2**30), ("1x80gb", 80e9 / 2**30), ("8x80gb", 80e9 / 2**30)):
        x = experiment(f"hardware={hardware}", "generation.dtype=bfloat16", "train.dtype=bfloat16")
        for stage, need in needs.needs(x).items():
            assert need.gib < gib, f"{hardware}, {stage}: {need.terms}"
    whole = training(needs.shape_of(x)[0], replace(needs.fit(x), rows=16), "gpu")
    assert whole.gib > 24e9 / 2**30, "sixteen rows at once without checkpointing would not"
