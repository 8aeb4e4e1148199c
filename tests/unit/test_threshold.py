"""A guard's calibrated threshold is one artifact: set on the tuning pairs, an input of every verdict."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir

from data import loading
from data.schema import Completion, GuardRow, write_jsonl
from pipeline import answers, artifacts, job
from pipeline.judge_stage_settings import GuardJudge, GuardThreshold
from pipeline.stages import judge
from tests.planning import experiment

CONF = Path(__file__).resolve().parents[2] / "conf"
HOW = (6, None, "transformers", "float32")
GUARD = "evaluation.guard_format.SmallGuard"


@pytest.fixture(autouse=True, scope="module")
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def test_every_verdict_of_a_guard_reads_the_one_threshold() -> None:
    x = experiment()
    threshold = answers.threshold(x, "guard")
    assert threshold and set(threshold.inputs) == {"model", "tuning"}
    replies = [answers.completions(x, None, "directharm", half) for half in ("dev", "test")]
    for step in (*replies, x.heldout):
        its = answers.verdicts(x, step, "guard")
        assert its.inputs["threshold"].key == threshold.key and its.settings["threshold"] is None


def test_it_changes_with_the_tuning_pairs_and_not_with_those_that_measure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def keys(changed: str) -> tuple[str, str]:
        prints = {
            split: loading.fingerprint("guard", split=split) for split in ("train", "tuning", "heldout")
        }
        monkeypatch.setattr(
            "pipeline.steps.loading.fingerprint",
            lambda name, split, source=None: "other" if split == changed else prints.get(split, ""),
        )
        x = experiment()
        threshold = answers.threshold(x, "guard")
        assert threshold
        return threshold.key, answers.verdicts(
            x, answers.completions(x, None, "directharm", "dev"), "guard"
        ).key

    before = keys("none")
    assert keys("heldout") == before
    assert all(now != then for now, then in zip(keys("tuning"), before, strict=True))


def test_a_fixed_threshold_needs_none() -> None:
    x = experiment("judge.guard.threshold=0.3")
    assert answers.threshold(x, "guard") is None
    step = answers.verdicts(x, x.heldout, "guard")
    assert "threshold" not in step.inputs and step.settings["threshold"] == 0.3
    assert answers.threshold(x, "refusal") is None


def made(folder: Path, settings: Any, **inputs: Path) -> Path:
    folder.mkdir()
    job.begin(1)
    judge.run([job.Job("x", settings.keyed(), {}, inputs, folder)])
    return folder


def test_it_is_set_on_the_tuning_pairs_and_decides_the_verdicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard below gives P(unsafe) in the reply; .3 is unsafe by the tuning pairs, and was safe at one half."""
    asked: list[set[tuple[str, str]]] = []

    def said(
        jobs: Any, settings: Any, wanted: list[set[tuple[str, str]]]
    ) -> dict[tuple[str, str], list[tuple[str, float]]]:
        asked.extend(wanted)
        return {pair: [("safe", float(pair[1]))] for pairs in wanted for pair in pairs}

    monkeypatch.setattr(judge, "answers_of", said)
    for name in ("tuning", "replies"):
        (tmp_path / name).mkdir()
    pairs = [
        GuardRow(p, "?", p, label) for p, label in (("0.1", "safe"), ("0.25", "unsafe"), ("0.4", "unsafe"))
    ]
    write_jsonl(tmp_path / "tuning" / artifacts.ROWS, pairs)
    write_jsonl(
        tmp_path / "replies" / artifacts.COMPLETIONS, [Completion(p, "!", p) for p in ("0.3", "0.15")]
    )
    tuned = made(tmp_path / "threshold", GuardThreshold(GUARD, "", *HOW), tuning=tmp_path / "tuning")
    assert json.loads((tuned / artifacts.THRESHOLD).read_text()) == {"threshold": pytest.approx(0.175)}
    inputs = {"replies": tmp_path / "replies", "threshold": tuned}
    verdicts = made(tmp_path / "verdicts", GuardJudge(GUARD, "", None, *HOW), **inputs)
    assert [row.verdict for row in artifacts.verdicts(verdicts)] == ["unsafe", "safe"]
    assert asked[-1] == {("!", "0.3"), ("!", "0.15")}, "the tuning pairs are not asked about again"
