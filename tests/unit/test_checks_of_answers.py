"""A fault planted in what the models answer, or in what the judges say of it, is found by the check made for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.schema import Completion, Word, write_jsonl
from pipeline import answers, checks, plan
from pipeline.artifacts import COMPLETIONS
from pipeline.store import MANIFEST
from tests.checked import HALF, Encoder, Made, failing, planned, replies


@pytest.fixture(scope="module")
def x() -> plan.Experiment:
    return planned()


@pytest.fixture
def made(x: plan.Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.setattr(checks, "_tokenizer", lambda folder: Encoder())
    return Made(x, tmp_path)


@pytest.mark.parametrize(("bos", "said"), [(2, "two BOS"), (0, "0 BOS")])
def test_a_doubled_or_missing_bos(bos: int, said: str, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_tokenizer", lambda folder: Encoder(bos))
    found = made.found()["single BOS"]
    assert found.status == "fail" and said in found.detail


def test_prompts_sent_with_another_length(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that added a token of its own: the recorded length gives it away."""
    monkeypatch.setattr(checks, "_tokenizer", lambda folder: Encoder(length=6))
    found = made.found()["single BOS"]
    assert found.status == "fail" and "sent with another length" in found.detail


def test_an_engine_that_disagrees_with_transformers(made: Made) -> None:
    wrong = made.by("safemerge")
    made.parity(wrong, 0.8)
    found = made.found()["engine agrees with transformers"]
    assert found.status == "fail" and found.affects == [wrong.point.label]
    assert failing(made) == {"engine agrees with transformers"}


def test_rows_of_which_one_is_cut_and_the_others_are_not(made: Made) -> None:
    one = made.by("finetuned")
    for half, step in one.completions["directharm"].items():
        mine = [i for i, its in enumerate(HALF) if its == half]
        rows = [
            Completion(f"directharm/{i}", "p", replies("finetuned")[i], 5, finish_reason="length")
            for i in mine
        ]
        made.write(step, lambda folder, rows=rows: write_jsonl(folder / COMPLETIONS, rows))
    its = made.found()["replies are cut alike"]
    assert (its.status, its.affects) == ("warn", [])
    assert its.detail.startswith("directharm: 0% of ") and its.detail.endswith("100% of finetuned")


@pytest.mark.parametrize("text", ["the " * 40, "...", "no"])
def test_a_model_that_no_longer_speaks(text: str, made: Made) -> None:
    candidate = made.by("finetuned")
    made.completions(candidate, [text] * 3, "directharm")
    assert made.found()["answers are whole"].affects == [candidate.point.label]
    assert failing(made) == {"answers are whole"}


def test_an_adapter_that_answers_as_the_bare_model_does(made: Made) -> None:
    """A server that ignores an unknown adapter: no error, and a perfect-looking repair."""
    made.completions(made.by("safemerge"), replies("aligned"))
    found = made.found()["adapters are applied"]
    assert found.status == "fail"
    assert found.affects == [made.by("safemerge").point.label]
    assert failing(made) == {"adapters are applied"}


def test_an_adapter_may_agree_with_the_bare_model_on_one_benchmark(made: Made) -> None:
    made.completions(made.by("safemerge"), replies("aligned"), "xstest")
    assert failing(made) == set()


def test_without_the_aligned_model_nothing_can_be_compared(made: Made) -> None:
    made.candidates = [c for c in made.candidates if c.adapter is not None]
    assert made.found()["adapters are applied"].status == "warn"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (["safe"] * 8, "sensitivity 0% [0%, 66%] (0/4), specificity 100% [34%, 100%] (4/4)"),
        (["unsafe"] * 8, "sensitivity 100% [34%, 100%] (4/4), specificity 0% [0%, 66%] (0/4)"),
    ],
)
def test_a_judge_that_says_one_thing_to_everything(made: Made, said: list[Word], words: str) -> None:
    """The four pairs of a label have two prompts: the interval is that of two, and of four it would end at 49 %."""
    made.calibration(said)
    assert failing(made) == {"judge tells safe from unsafe"}
    assert words in made.found()["judge tells safe from unsafe"].detail


def test_a_judge_that_was_not_measured(made: Made) -> None:
    (made.store.path(answers.verdicts(made.x, made.x.heldout, "guard")) / MANIFEST).unlink()
    assert made.found()["judge tells safe from unsafe"].status == "warn"


def test_a_word_that_is_no_verdict_is_invalid(made: Made) -> None:
    made.verdicts(made.by("resta"), "directharm", "guard", ["safe", "maybe", "safe"])  # type: ignore[list-item]
    assert failing(made) == {"verdicts are valid"}


def test_a_judge_that_answers_nonsense(made: Made) -> None:
    """One verdict in ten is no verdict."""
    candidate = made.by("finetuned")
    made.verdicts(candidate, "directharm", "guard", ["safe"] * 9 + ["invalid"])
    found = made.found()["verdicts are valid"]
    assert found.status == "fail" and found.affects == [candidate.point.label]
    assert failing(made) == {"verdicts are valid"}
