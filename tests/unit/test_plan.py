"""The plan: what is made from what, and which setting changes which artifact."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import initialize_config_dir

from data.catalogue import KNOWN
from data.dataset import BUNDLED_ROOT
from pipeline import answers, plan
from pipeline.store import External, Step, Store
from safemerge.errors import UserError
from tests.planning import experiment, with_similarity

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True, scope="module")
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


def keys(x: plan.Experiment) -> dict[str, str]:
    """Of every step known before the similarity table, and of completions and verdicts of the aligned model."""
    steps = {
        "base": x.base,
        "aligned": x.aligned,
        "similarity": x.similarity,
        "tuning": x.tuning,
        "heldout": x.heldout,
        **{f"adapter {name}": step for name, step in x.adapters.items()},
        **{f"rows {name}": step for name, step in x.training_rows.items()},
        **{f"items {name}": step for name, step in x.items.items()},
    }
    if x.alignment and x.guard:
        steps |= {"alignment": x.alignment, "guard": x.guard}
    for name in x.config.benchmark:
        completions = answers.completions(x, None, name, "test")
        steps[f"completions {name}"] = completions
        for judge in answers.judges_of(x, name):
            steps[f"verdicts {name} {judge}"] = answers.verdicts(x, completions, judge)
    return {name: step.key for name, step in steps.items() if step is not None}


@functools.cache
def default_keys() -> dict[str, str]:
    return keys(experiment())


def changed(*overrides: str) -> set[str]:
    before, after = default_keys(), keys(experiment(*overrides))
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


def test_the_seed_changes_the_adapters_of_the_experiment_alone() -> None:
    """Base, aligned member, judge and data are the same in all seeds, so that seeds share them."""
    assert changed("seed=1") == {"adapter task", "adapter safety", "adapter safeinstruct", "similarity"}


@pytest.mark.parametrize(
    "override",
    [
        "generation.max_num_seqs=3",
        "generation.max_loras=2",
        "generation.gpu_memory_utilization=0.5",
        "tracking=off",
        "tracking.project=other",
        "store=/elsewhere",
        "runs=/elsewhere",
        "train.devices=2",
        "selection.keep_gain=0.5",
        "dry_run=true",
        "stages=[prepare]",
        "sweep=single",
    ],
)
def test_what_changes_no_result_changes_no_key(override: str) -> None:
    assert changed(override) == set()


@pytest.mark.parametrize(
    ("override", "expected", "kept"),
    [
        (
            "train.args.warmup_steps=0.31",
            {"adapter task", "adapter safety", "aligned", "guard"},
            {"base"},
        ),
        (
            "+train.task.args.learning_rate=1.23e-5",
            {"adapter task", "similarity"},
            {"adapter safety", "aligned"},
        ),
        (
            "train.safety.limit=7",
            {"adapter safety", "rows safety"},
            {"adapter task", "aligned", "similarity"},
        ),
        (
            "train.role_seeds=apart",
            {"adapter safety"},
            {"adapter task", "aligned", "similarity", "rows safety"},
        ),
        ("train.lora.r=3", {"adapter task", "adapter safety"}, {"base", "rows task"}),
        ("generation.temperature=0.7", {"completions gsm8k"}, {"adapter task", "aligned", "items gsm8k"}),
        ("+generation.max_tokens.gsm8k=9", set(), {"completions xstest", "adapter task"}),
        (
            "generation.backend=transformers",
            {"completions gsm8k", "verdicts directharm guard"},
            {"adapter task"},
        ),
        (
            "judge.guard.threshold=0.123",
            {"verdicts directharm guard"},
            {"verdicts directharm refusal", "guard"},
        ),
        ("model.system_prompt=Hello", {"adapter task", "completions gsm8k"}, {"base", "rows task"}),
        ("task=pubmedqa", set(), {"aligned", "adapter safety", "guard", "completions xstest"}),
    ],
)
def test_a_setting_changes_what_depends_on_it(override: str, expected: set[str], kept: set[str]) -> None:
    override = override.replace("+generation", "++generation")
    before, after = default_keys(), keys(experiment(override))
    differs = {name for name in before.keys() & after.keys() if before[name] != after[name]}
    assert expected <= differs
    assert not kept & differs


@pytest.mark.parametrize("limit", ["++generation.max_tokens.gsm8k=9", "benchmark.gsm8k.max_tokens=9"])
def test_gsm8k_length_is_its_own(limit: str) -> None:
    assert changed(limit) == {"completions gsm8k"}


def test_a_benchmarks_own_length_goes_before_the_machines() -> None:
    both = experiment("++generation.max_tokens.gsm8k=9", "benchmark.gsm8k.max_tokens=8").config
    assert both.reply_limit("gsm8k") == 8
    assert plan.run_name(both) != plan.run_name(experiment("++generation.max_tokens.gsm8k=9").config)


def test_greedy_decoding_has_no_sampling_settings() -> None:
    sampled = experiment("generation.temperature=1", "generation.seed=5")
    other = experiment("generation.temperature=1", "generation.seed=6")
    assert keys(sampled)["completions gsm8k"] != keys(other)["completions gsm8k"]


def test_editing_a_data_file_changes_what_is_made_from_it(tmp_path: Path) -> None:
    """Files count by content: the same in another folder are the same."""
    for folder in (tmp_path / "one", tmp_path / "two"):
        for dataset in KNOWN.values():
            for split in dataset.bundled.keys() & dataset.local.keys():
                target = folder / dataset.local[split]
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(BUNDLED_ROOT / dataset.bundled[split], target)
    one = keys(experiment("data=local", f"data.root={tmp_path / 'one'}"))
    assert one == keys(experiment("data=local", f"data.root={tmp_path / 'two'}"))
    edited = tmp_path / "two" / KNOWN["gsm8k"].local["train"]
    edited.write_text(edited.read_text().replace("1", "2", 1))
    two = keys(experiment("data=local", f"data.root={tmp_path / 'two'}"))
    differs = {name for name in one if one[name] != two[name]}
    assert {"rows task", "adapter task", "similarity"} <= differs
    assert not {"adapter safety", "aligned", "items gsm8k", "completions gsm8k"} & differs


def test_only_what_the_methods_need_is_trained() -> None:
    def roles(*methods: str) -> set[str]:
        return {s.settings["role"] for s in experiment(f"method=[{','.join(methods)}]").trained}

    assert roles("aligned", "finetuned") == {"task"}
    assert roles("aligned", "finetuned", "safelora") == {"task"}
    assert roles("aligned", "safemerge") == {"task", "safety"}
    assert roles("aligned", "safeinstruct") == {"safeinstruct"}


def test_the_two_parts_of_the_safety_rows_are_disjoint() -> None:
    """A safety LoRA trained on what made the model safe would flatter the merge."""
    x = experiment()
    parts = {
        name: step.settings["part"] for name, step in x.training_rows.items() if step.settings.get("part")
    }
    assert parts["align/safety"] == "align"
    assert {part for name, part in parts.items() if name != "align/safety"} == {"safety"}


def adapter_folder(folder: Path, weights: bytes = b"w") -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return folder


def test_an_adapter_of_your_own_replaces_training(tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path / "mine")
    x = experiment(f"task_adapter={folder}")
    assert isinstance(x.adapters["task"], External)
    assert {s.settings["role"] for s in x.trained} == {"safety", "safeinstruct"}
    assert Store(tmp_path / "store").path(x.adapters["task"]) == folder
    same = experiment(f"task_adapter={adapter_folder(tmp_path / 'copy')}")
    other = experiment(f"task_adapter={adapter_folder(tmp_path / 'other', b'x')}")
    assert x.similarity.key == same.similarity.key != other.similarity.key


def test_an_adapter_of_your_own_is_served_in_our_spelling(tmp_path: Path) -> None:
    """As a step of its own, since engines read PEFT's names; compared with the models, as every merge of it is."""
    folder = adapter_folder(tmp_path / "mine")
    x = experiment(f"task_adapter={folder}", "method.safemerge.tau=1", "method.safelora.tau=0.05")
    by_method = {c.point.method: c for c in with_similarity(x, Store(tmp_path / "store"), [0.1, 0.4])}
    served = by_method["finetuned"].adapter
    assert isinstance(served, Step) and served.stage == "merge" and served.settings["selected"] == []
    assert served.settings["repair"]["kind"] == "keep" and served.inputs["task"] == x.adapters["task"]
    assert by_method["safelora"].adapter.key == served.key, "nothing is selected"
    assert set(served.inputs) == {"task", "base", "aligned"}
    assert set(by_method["safemerge"].adapter.inputs) == {"task", "safety", "base", "aligned"}
    theirs = experiment(f"safety_adapter={folder}", "method.safemerge.tau=1")
    found = {c.point.method: c for c in with_similarity(theirs, Store(tmp_path / "other"), [0.1, 0.4])}
    assert set(found["safemerge"].adapter.inputs) == {"task", "safety", "base", "aligned"}
    assert found["finetuned"].adapter is theirs.adapters["task"]


def test_a_missing_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"adapter_config\.json"):
        experiment(f"safety_adapter={tmp_path}")


def test_judges_by_role() -> None:
    x = experiment()
    assert answers.judges_of(x, "gsm8k") == []
    assert answers.judges_of(x, "directharm") == ["guard", "refusal"]
    assert answers.judges_of(x, "xstest") == ["refusal"]


def test_names_of_runs_differ_as_the_experiments_do() -> None:
    names = [
        plan.run_name(experiment(*o).config) for o in ([], ["seed=1"], ["train.lora.r=3"], ["task=pubmedqa"])
    ]
    assert len(set(names)) == 4
    assert names[0] == plan.run_name(experiment("tracking=off", "store=/else", "stages=[report]").config)
    assert names[0].startswith("tiny-gsm8k-bundled-seed0-")
