"""A second fine-tuning after the repair: what it is made from, in which order, and that it goes on from the adapter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir

from data.dataset import BUNDLED
from pipeline import again, grid
from pipeline.plan import Experiment
from pipeline.stage_settings import Finetune, MergedModel, ScratchModel, TrainingRows
from pipeline.store import Step, Store
from pipeline.unkeyed import Origin, Share
from safemerge import durability
from safemerge.errors import UserError
from tests.golden import SIZES, Runs
from tests.planning import experiment, with_similarity

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Experiment, list[grid.Candidate]]]:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        x = experiment("experiment=durability")
        yield x, with_similarity(x, Store(tmp_path_factory.mktemp("store")), [0.1, 0.4, 0.5, 0.9])


def adapter(found: list[grid.Candidate], method: str) -> Step:
    its = next(c.adapter for c in found if c.method == method)
    assert isinstance(its, Step)
    return its


def test_the_second_fine_tuning_starts_from_the_repaired_adapter(
    planned: tuple[Experiment, list[grid.Candidate]],
) -> None:
    x, found = planned
    repaired, twin = adapter(found, "safemerge_again"), adapter(found, "finetuned_again")
    assert repaired.inputs["adapter"].key == adapter(found, "safemerge_released").key
    assert twin.inputs["adapter"].key == x.adapters["task"].key
    assert repaired.settings == twin.settings, "the twins differ in the repair alone"
    assert (
        repaired.inputs["again"].key == twin.inputs["again"].key
        and repaired.inputs["model"].key == x.aligned.key
    )
    assert repaired.settings["seed"] != adapter(found, "finetuned").settings["seed"]
    assert any(step.key == repaired.inputs["again"].key for step in x.prepared), (
        "its rows are made with the others"
    )
    renewed = adapter(found, "safemerge_renewed")
    first = adapter(found, "safemerge_released")
    assert renewed.stage == "merge" and renewed.inputs["task"].key == repaired.key
    assert renewed.settings == first.settings and renewed.inputs["safety"].key == first.inputs["safety"].key


def test_all_of_it_is_made_in_an_order_in_which_it_can(
    planned: tuple[Experiment, list[grid.Candidate]],
) -> None:
    _, found = planned
    layers = again.layers(c.adapter for c in found)
    assert {title for title, _ in layers} == {"merging", "second fine-tuning"}
    made: set[str] = set()
    for title, steps in layers:
        assert {step.stage for step in steps} == {"merge" if title == "merging" else "finetune"}
        for step in steps:
            before = [its for its in step.inputs.values() if isinstance(its, Step)]
            late = [
                s for s in before if s.stage == "merge" or (s.stage == "finetune" and "adapter" in s.inputs)
            ]
            assert all(s.key in made for s in late), step.name
        made |= {step.key for step in steps}
    wanted = {c.adapter.key for c in found if isinstance(c.adapter, Step)}
    assert wanted - made == {adapter(found, "finetuned").key}, "the first fine-tuning is of an earlier stage"
    assert again.layers([None]) == []


def test_without_a_second_fine_tuning_the_keys_are_as_they_were(
    planned: tuple[Experiment, list[grid.Candidate]], tmp_path: Path
) -> None:
    words = ("method=[aligned,finetuned,safemerge_released]", "method.safemerge.tau=q0.5")
    plain = experiment(*words, "method.safemerge.alpha=0.8")
    ours = with_similarity(plain, Store(tmp_path), [0.1, 0.4, 0.5, 0.9])
    for method in ("finetuned", "safemerge_released"):
        assert adapter(ours, method).key == adapter(planned[1], method).key
    assert "adapter" not in adapter(ours, "finetuned").inputs


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"dataset": ""}, "dataset is empty"),
        ({"dataset": "helpful", "limit": 0}, "limit=0"),
        ({"dataset": "helpful", "learning_rate": -1}, "learning_rate=-1"),
        ({"dataset": "helpful", "epochs": "many"}, "epochs=many"),
    ],
)
def test_bad_settings_are_one_line(knobs: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        durability.finetuned_again(**knobs)


def test_labels_tell_the_settings() -> None:
    points = durability.safemerge_again(
        tau=["q0.5", 0.3], alpha=0.8, dataset="helpful", combine="peft_linear", limit=9, learning_rate=1e-3
    )
    assert [point.label for point in points] == [
        f"safemerge_again tau={tau} alpha=0.8 combine=peft_linear on=helpful rows=9 lr=0.001"
        for tau in ("q0.5", "0.3")
    ]


def test_training_goes_on_from_the_adapter(tmp_path: Path) -> None:
    """At no learning rate the adapter comes out as it went in, at a small one near it; its rank need not be the plan's."""
    from safemerge.adapters import load_adapter

    run, source = Runs(tmp_path), Origin(BUNDLED)
    rows = run("prepare", "rows", TrainingRows("gsm8k", 8, None, ""), source)
    made = ScratchModel(
        "", **SIZES, num_key_value_heads=1, vocab_size=400, learning_rate=0.02, steps=2, batch_size=4
    )
    base = run("prepare", "base", made)

    def lora(name: str, rank: int, rate: float, **inputs: Path) -> Path:
        settings = {"r": rank, "lora_alpha": 8.0, "target_modules": ["q_proj", "down_proj"]}
        args = {"max_steps": 2, "learning_rate": rate, "max_length": 512, "logging_steps": 1}
        told = Finetune(name, settings, "float32", 4, args, 1, None)
        return run("finetune", name, told, Share(1, 4, 1), model=base, **inputs)

    first = lora("first", 4, 0.01, task=rows)
    still = lora("still", 16, 0.0, adapter=first, again=rows)
    moved = lora("moved", 16, 0.001, adapter=first, again=rows)
    one, same, other = (load_adapter(folder).modules for folder in (first, still, moved))
    assert one.keys() == same.keys() == other.keys() and len(one) == 4
    for name, its in one.items():
        assert its.a.shape == same[name].a.shape == other[name].a.shape
        assert bool((its.a == same[name].a).all()) and bool((its.b == same[name].b).all())
        change = float((its.b - other[name].b).norm() / its.b.norm())
        assert 0 < change < 0.6, name
    merged = run("prepare", "merged", MergedModel(), model=base, adapter=moved)
    assert (merged / "config.json").exists() or any(merged.rglob("config.json"))
