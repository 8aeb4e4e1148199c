"""From the similarity table to the candidates: what each point selects, merges and answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import initialize_config_dir

from pipeline import grid
from pipeline.store import Store
from safemerge.errors import UserError
from tests.planning import experiment, with_similarity

ROOT = Path(__file__).resolve().parents[2]
GRID = "method.safemerge={_target_:safemerge.methods.safemerge,tau:[%s],alpha:[0.7],combine:exact}"


@pytest.fixture(autouse=True, scope="module")
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


def exact(found: list[grid.Candidate]) -> list[grid.Candidate]:
    """SafeMERGE's points, of its two ways of merging the exact one."""
    return [c for c in found if c.point.method == "safemerge" and c.point.combine == "exact"]


def halves(c: grid.Candidate) -> tuple[str, ...]:
    """Of the prompts that it answers, the same on every benchmark but the one for over-refusal."""
    (found,) = {tuple(its) for benchmark, its in c.completions.items() if benchmark != "xstest"}
    return found


def test_with_a_grid_on_the_development_half_each_half_is_answered_where_it_is_read(tmp_path: Path) -> None:
    x = experiment("method.safemerge.tau=[0.3,0.5]", "method.safemerge.alpha=0.7", "selection.grid=dev")
    store = Store(tmp_path)
    found = with_similarity(x, store, [0.1, 0.4])
    by_label = {c.point.label: halves(c) for c in found}
    ends = by_label["finetuned"], by_label["aligned"]
    assert set(ends) == {("dev", "test")}, "the grid is measured against them"
    assert by_label["resta gamma=0.5"] == ("test",), "nothing is selected among its points"
    assert {halves(c) for c in exact(found)} == {("dev",)}
    assert "xstest" not in exact(found)[0].completions, "selection does not look at over-refusal"
    label = exact(found)[1].point.label
    again = {c.point.label: halves(c) for c in grid.candidates(x, store, frozenset({label}))}
    assert [name for name in again if again[name] != by_label[name]] == [label]
    chosen = grid.candidates(x, store, frozenset({label}))[-1]
    dev, test = chosen.completions["gsm8k"].values()
    assert (dev.settings["half"], test.settings["half"]) == ("dev", "test") and dev.key != test.key
    assert [step.settings["half"] for step in chosen.completions["xstest"].values()] == ["test"]
    assert chosen.parity.key == found[-1].parity.key, "one engine check, whatever is selected"
    x = experiment("method.safemerge.tau=[0.3,0.5]", "selection.grid=all")
    everywhere = [tuple(its) for c in grid.candidates(x, store) for its in c.completions.values()]
    assert set(everywhere) == {("dev", "test")}


def test_where_nothing_is_selected_all_prompts_are_of_the_half_that_is_reported(tmp_path: Path) -> None:
    one = ("method.safemerge.tau=0.3", "method.safemerge.alpha=0.7", "selection.grid=none")
    x = experiment(*one)
    found = with_similarity(x, Store(tmp_path), [0.1, 0.4])
    assert {tuple(its) for c in found for its in c.completions.values()} == {("test",)}
    assert {step.settings["selecting"] for step in x.items.values()} == {False}
    usual = experiment(*one[:2])
    assert not any("selecting" in step.settings for step in usual.items.values()), "keys of old stay"
    with pytest.raises(
        UserError, match=r"selection\.grid=none, and method\.safemerge\w* has 2 points .*tau=0\.5"
    ):
        experiment("method.safemerge.tau=[0.3,0.5]", "method.safemerge.alpha=0.7", "selection.grid=none")


def test_points_that_select_the_same_modules_are_one_adapter(tmp_path: Path) -> None:
    x = experiment(GRID % "0.3,0.35,0.5")
    found = exact(with_similarity(x, Store(tmp_path), [0.1, 0.2, 0.4]))
    assert [len(c.selected) for c in found] == [2, 2, 3]
    assert found[0].adapter.key == found[1].adapter.key != found[2].adapter.key
    one, other = (c.completions["gsm8k"]["dev"].key for c in found[:2])
    assert one == other, "and its completions are made once"


def test_another_alpha_is_another_adapter(tmp_path: Path) -> None:
    x = experiment("method.safemerge.tau=0.3", "method.safemerge.alpha=[0.5,0.7]")
    found = exact(with_similarity(x, Store(tmp_path), [0.1, 0.4]))
    assert len({c.adapter.key for c in found}) == 2


def test_an_empty_selection_is_the_task_adapter_itself(tmp_path: Path) -> None:
    x = experiment("method.safemerge.tau=0.05", "method.safelora.tau=0.05")
    by_method = {c.point.method: c for c in with_similarity(x, Store(tmp_path), [0.1, 0.4])}
    for method in ("safemerge", "safelora", "finetuned"):
        assert by_method[method].adapter is x.adapters["task"] and by_method[method].selected == ()
    assert by_method["aligned"].adapter is None
    assert by_method["safeinstruct"].adapter is x.adapters["safeinstruct"]
    assert len(by_method["full"].selected) == by_method["full"].modules == 2


def test_a_quantile_is_resolved_by_the_table(tmp_path: Path) -> None:
    x = experiment("method.safemerge.tau=q0.5")
    found = next(
        c for c in with_similarity(x, Store(tmp_path), [0.1, 0.2, 0.3, 0.4]) if c.point.method == "safemerge"
    )
    assert found.tau == pytest.approx(0.25) and len(found.selected) == 2 and found.point.tau_setting == "q0.5"


def test_each_repair_is_made_from_what_it_reads(tmp_path: Path) -> None:
    x = experiment(
        "method=[safemerge,safelora,resta,scale]", "method.safemerge.tau=1", "method.safelora.tau=1"
    )
    made = {c.point.method: set(c.adapter.inputs) for c in with_similarity(x, Store(tmp_path), [0.1, 0.4])}
    assert made["safemerge"] == made["resta"] == {"task", "safety"}
    assert made["safelora"] == {"task", "base", "aligned"}
    assert made["scale"] == {"task"}


def test_a_safety_prompt_at_test_time_is_another_question_to_the_same_adapter(tmp_path: Path) -> None:
    x = experiment("method=[aligned,finetuned,ptst]", "selection.grid=all")
    by_method = {c.method: c for c in grid.candidates(x, Store(tmp_path))}
    plain, asked = by_method["finetuned"], by_method["ptst"]
    assert plain.adapter is asked.adapter is x.adapters["task"]
    prompt = x.points[-1].system_prompt
    for one, other in zip(
        [*plain.replies, *plain.likelihoods, plain.parity],
        [*asked.replies, *asked.likelihoods, asked.parity],
        strict=True,
    ):
        assert one.settings["system_prompt"] is None and other.settings["system_prompt"] == prompt
        assert {**one.settings, "system_prompt": prompt} == other.settings and one.key != other.key


def test_merging_without_the_table_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="include the similarity stage"):
        grid.candidates(experiment(), Store(tmp_path))
    assert len(grid.candidates(experiment("method=[aligned,finetuned]"), Store(tmp_path))) == 2
