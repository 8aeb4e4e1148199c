"""Sound artifacts pass every check; a fault planted in what a run trains, or trains on, is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.schema import Example
from pipeline import checks, plan
from pipeline.store import Step, Store
from tests.checked import Encoder, Made, failing, planned


@pytest.fixture(scope="module")
def x() -> plan.Experiment:
    return planned()


@pytest.fixture
def made(x: plan.Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.setattr(checks, "_tokenizer", lambda folder: Encoder())
    return Made(x, tmp_path)


def test_sound_artifacts_pass(made: Made) -> None:
    found = made.found()
    assert failing(made) == set()
    assert set(found) == {
        "single BOS", "training labels", "train and test are disjoint", "adapters change weights", "adapters are applied",
        "engine agrees with transformers", "verdicts are valid", "answers are whole", "rho is defined",
        "judge tells safe from unsafe", "replies are cut alike",
    }  # fmt: skip
    assert all(its.detail and its.affects == [] for its in found.values())


def test_a_broken_adapter(made: Made) -> None:
    broken = made.by("safemerge")
    assert isinstance(broken.adapter, Step)
    made.weights(broken.adapter, 0.0)
    found = made.found()["adapters change weights"]
    assert found.status == "fail" and found.affects == [broken.point.label]
    made.weights(broken.adapter, float("nan"))
    assert made.found()["adapters change weights"].affects == [broken.point.label]


@pytest.mark.parametrize("role", ["task", "safety", "align/safety", "safeinstruct/task"])
def test_a_test_item_in_the_training_rows(role: str, made: Made) -> None:
    """Found also when it differs in case and punctuation."""
    made.examples(made.x.training_rows[role], Example("new id", "TEST of gsm8k - number 2!", "4"))
    found = made.found()["train and test are disjoint"]
    assert found.status == "fail" and f"1 of gsm8k in {role}" in found.detail


def test_an_equal_id_is_a_leak(made: Made) -> None:
    made.examples(made.x.training_rows["safety"], Example("directharm/1", "something else", "no"))
    assert made.found()["train and test are disjoint"].detail == "1 of directharm in safety"


@pytest.mark.parametrize(
    ("text", "prompt"), [("The answer is 4.", "How much?"), ("The answer is 4.<eos>", ""), ("", "How much?")]
)
@pytest.mark.parametrize("which", ["task LoRA", "guard LoRA", "align LoRA"])
def test_labels_without_eos_or_with_the_prompt(text: str, prompt: str, which: str, made: Made) -> None:
    x = made.x
    step = next(s for s in [*x.trained, x.alignment, x.guard] if s is not None and s.name == which)
    made.labels(step, text, prompt)
    found = made.found()["training labels"]
    assert found.status == "fail" and which in found.detail
    assert failing(made) == {"training labels"}


@pytest.mark.parametrize("flag", ["zero_v", "zero_update", "zero_projection"])
def test_modules_whose_rho_says_nothing(flag: str, made: Made) -> None:
    made.write(made.x.similarity, made.similarity([0.2, 0.4], (flag,)))
    found = made.found()["rho is defined"]
    assert found.status == "warn" and found.detail == "model.layers.1.self_attn.q_proj"


def test_a_run_without_a_table_has_no_rho_to_guard(x: plan.Experiment, tmp_path: Path) -> None:
    assert checks.defined_rho(x, Store(tmp_path)).status == "pass"


def test_long_lists_are_cut(made: Made) -> None:
    made.write(made.x.similarity, made.similarity([0.0] * 12, ("zero_v",)))
    assert made.found()["rho is defined"].detail.endswith("and 6 more")
