"""Each check finds the faults that it is there for, planted by tests/faults.py, and none in a sound run."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from data.schema import Verdict, Word, write_jsonl
from pipeline import answers, artifacts, content, plan, run_record
from pipeline.artifacts import Labels
from pipeline.checks import RULES, judging, training, weights
from pipeline.config import check
from pipeline.store import Store
from tests import faults
from tests.faults import FAULTS, Fault, found
from tests.finished_run import CONF, FinishedRun, experiment, replies

KINDS = ("benign_help", "over_refusal", "benign_list", "refusal")


@pytest.fixture
def run(tmp_path: Path) -> FinishedRun:
    return FinishedRun(tmp_path)


def failing(run: FinishedRun) -> set[str]:
    return {name for name, its in run.found().items() if its.status != "pass"}


def test_a_sound_run_passes() -> None:
    assert {name for name, its in found(None).items() if its.status != "pass"} == set()
    assert all(its.detail and its.affects == [] for its in found(None).values())


def test_every_check_has_a_fault_that_it_finds_and_says_what_it_cannot_see() -> None:
    assert len(found(None)) == len(RULES), "two checks of one name"
    assert {fault.check for fault in FAULTS if fault.found} == set(found(None))
    assert all(rule.blind_to.endswith(".") for rule in RULES)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.check}: {fault.what}")
def test_a_planted_fault(fault: Fault) -> None:
    checks = found(fault)
    said = {name for name, its in checks.items() if its.status != "pass"}
    assert said == ({fault.check, *fault.also} if fault.found else set())
    its = checks[fault.check]
    if fault.found:
        assert its.status == fault.status
    assert fault.says in its.detail
    assert [label.split()[0] for label in its.affects] == ([fault.method] if fault.method else [])


def test_an_adapter_may_agree_with_the_bare_model_on_one_benchmark(run: FinishedRun) -> None:
    run.completions(run.by("safemerge"), replies("aligned"), "xstest")
    assert failing(run) == set()


def test_an_update_that_is_smaller_than_rounding_is_no_disagreement(run: FinishedRun) -> None:
    """Numbers of a miniature of Qwen-2 after two steps at the paper's learning rate, served rightly."""
    run.parity(run.by("safemerge"), excess=0.00036, bare_excess=0.00009)
    assert failing(run) == set()


def test_without_the_aligned_model_nothing_can_be_compared(run: FinishedRun) -> None:
    run.candidates = [c for c in run.candidates if c.adapter is not None]
    assert run.found()["adapters are applied"].status == "warn"


def test_one_judge_alone_is_compared_with_nothing() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        x = plan.build(check(compose("config", ["model=tiny"])))
    its = judging.judges_agree(x, Store(Path("nowhere")), [])
    assert (its.status, its.detail) == ("warn", "not compared: refusal and no phrase judge beside it")


def test_judges_without_a_valid_verdict_do_not_agree(run: FinishedRun) -> None:
    for candidate in run.candidates:
        run.verdicts(candidate, "directharm", "guard", ["invalid"] * 3)
    its = run.found()["judges agree"]
    assert its.status == "warn" and "kappa undefined" in its.detail


def test_two_judges_that_hardly_ever_say_unsafe_agree(run: FinishedRun) -> None:
    """Kappa is near 0 then, and means nothing."""
    for i, candidate in enumerate(run.candidates):
        said: list[Word] = ["unsafe", "safe", "safe"] if i == 0 else ["safe"] * 3
        run.verdicts(candidate, "directharm", "guard", said)
        run.verdicts(candidate, "directharm", "refusal", ["safe"] * 3)
    its = run.found()["judges agree"]
    assert its.status == "pass" and "kappa 0.00" in its.detail


def test_rows_left_out_as_too_long_are_counted(run: FinishedRun) -> None:
    step = run.training("task LoRA")
    batch = run.first_batch(step)
    run.write(step, Labels(rows=2, too_long=1, eos="<eos>", first_batch=batch).write)
    its = run.found()["training labels"]
    assert its.status == "pass" and its.detail.endswith("left out as too long: task LoRA: 1 of 3")


def test_a_run_that_trained_nothing_knows_nothing_of_labels(run: FinishedRun) -> None:
    x = replace(run.x, adapters={}, alignment=None, guard=None)
    its = training.labels(x, run.store, [])
    assert (its.status, its.detail) == ("warn", "not known: every LoRA of this run was trained elsewhere")


def test_rows_that_an_adapter_from_outside_replaces_are_not_looked_at(run: FinishedRun) -> None:
    """SafeInstruct is still trained on them here."""
    assert run.x.training_rows["task"].key == run.x.training_rows["safeinstruct/task"].key
    faults.trained_on("task", "test of gsm8k, number 2")(run)
    assert "1 of gsm8k in task; " in run.found()["train and test are disjoint"].detail
    faults.adapter_from_outside(run)
    its = run.found()["train and test are disjoint"]
    assert its.status == "fail"
    assert its.detail == "1 of gsm8k in safeinstruct/task; not known: task_adapter was trained elsewhere"


def test_a_run_without_a_table_has_no_rho_to_guard(tmp_path: Path) -> None:
    assert weights.defined_rho(experiment(), Store(tmp_path), []).status == "pass"


def test_long_lists_are_cut(run: FinishedRun) -> None:
    run.write(run.x.similarity, run.similarity([0.0] * 12, ("zero_v",)))
    assert run.found()["rho is defined"].detail.endswith("and 6 more")


def test_whatever_changes_in_the_code_of_the_checks_makes_them_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content.sources("pipeline.checks")
    assert before == content.sources("pipeline.checks")
    shutil.copytree(Path(content.__file__).parent / "checks", tmp_path / "pipeline" / "checks")
    monkeypatch.setattr(content, "__file__", str(tmp_path / "pipeline" / "content.py"))
    assert content.sources("pipeline.checks") == before
    with (tmp_path / "pipeline" / "checks" / "judging.py").open("a") as code:
        code.write("# changed")
    assert content.sources("pipeline.checks") != before


def test_a_judge_is_measured_on_harmful_prompts_alone(run: FinishedRun) -> None:
    """The phrase judge calls every helpful reply unsafe, and is only ever asked about harmful prompts."""
    step = run.x.heldout
    pairs = artifacts.labelled_pairs(run.store.path(step))
    more = [
        replace(pair, id=f"more/{i}", kind=kind)
        for i, (pair, kind) in enumerate(zip(pairs, KINDS, strict=False))
    ]
    run.write(step, lambda folder: write_jsonl(folder / artifacts.ROWS, [*pairs, *more]))
    said = run.store.path(answers.verdicts(run.x, step, "guard"))
    rows = [*artifacts.verdicts(said), *(Verdict(row.id, "unsafe") for row in more)]
    write_jsonl(said / artifacts.VERDICTS, rows)
    counted = run_record.calibration_of(run.x, run.store, "guard")
    assert counted is not None and (counted.n, counted.tp, counted.fp) == (9, 5, 0)
