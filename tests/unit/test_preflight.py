"""What a machine lacks is found out before anything starts, and said with its remedy."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from pipeline import plan, preflight
from pipeline.config import check
from pipeline.store import Store
from safemerge import hub
from safemerge.errors import UserError
from tests.pico import save_pair, write_lora
from tests.planning import fill
from tests.unit.foreign import configured, with_stale_index

USAGE = type(shutil.disk_usage("/"))
CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU, no token, no network, an empty hub cache."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "hub" / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub" / "hub"))
    monkeypatch.setattr(preflight, "gpus", list)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: USAGE(0, 0, 10**13))
    monkeypatch.setattr(socket, "create_connection", no_network)


def no_network(*args: object, **options: object) -> None:
    raise OSError("unreachable")


def experiment(model: str, *overrides: str) -> plan.Experiment:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return plan.build(check(compose("config", [f"model={model}", *overrides])))


@pytest.fixture(scope="module")
def big() -> plan.Experiment:
    return experiment("llama3.1-8b")


@pytest.fixture(scope="module")
def tiny() -> plan.Experiment:
    return experiment("tiny")


def snapshot(home: Path, repo: str, revision: str) -> None:
    folder = home / "hub" / f"models--{repo.replace('/', '--')}" / "snapshots" / revision
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    shards = {f"weight{n}": f"model-0000{n}-of-00002.safetensors" for n in (1, 2)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    for name in shards.values():
        (folder / name).touch()


def test_a_small_model_needs_nothing(tiny: plan.Experiment, tmp_path: Path) -> None:
    assert preflight.missing(tiny, Store(tmp_path)) == []


def test_everything_missing_is_said_in_one_line(big: plan.Experiment, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        preflight.require(big, Store(tmp_path / "store"))
    said = str(error.value)
    for word in (
        "model=llama3.1-8b",
        "a GPU with",
        "none here",
        "HF_TOKEN",
        "Llama-Guard-3-8B",
        "network",
        "get data/training/safety_only_data_Instructions.json of github.com/vinid/safety-tuned-llamas at 36a4b8d",
        "set data.datasets.safety.file=PATH",
    ):
        assert word in said
    assert "\n" not in said
    assert not (tmp_path / "store").exists()


def test_a_gpu_counts_by_its_memory(
    big: plan.Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacks(gib: float) -> bool:
        monkeypatch.setattr(preflight, "gpus", lambda: [{"name": "x", "memory_gib": gib}])
        return any("GPU" in text for text in preflight.missing(big, Store(tmp_path)))

    assert lacks(8.0) and not lacks(79.6)


def test_a_token_and_the_network_are_found(
    big: plan.Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "create_connection", lambda *a, **k: socket.socket())
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    found = " ".join(preflight.missing(big, Store(tmp_path)))
    assert "hub token" not in found and "the network" not in found and "GPU" in found
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not hub.reachable()


def test_gated_data_sets_need_a_token_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that this run asks, and only until their rows are in the store."""
    monkeypatch.setattr(socket, "create_connection", lambda *a, **k: socket.socket())
    store = Store(tmp_path)
    for asked in (True, False):
        benchmarks = "benchmark=[directharm,hexphi,xstest]" if asked else "benchmark=[directharm,xstest]"
        x = experiment("smollm2-135m-hub", benchmarks, "judge=[refusal]")
        found = " ".join(preflight.missing(x, store))
        assert ("hub token for the gated LLM-Tuning-Safety/HEx-PHI" in found) is asked
    fill(store, experiment("smollm2-135m-hub", "benchmark=[directharm,hexphi]").items["hexphi"])
    assert preflight.gated_data(experiment("smollm2-135m-hub", "benchmark=[directharm,hexphi]"), store) == []


def test_a_stored_login_is_a_token(tmp_path: Path) -> None:
    assert not preflight.hub_token()
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "token").write_text("hf_x")
    assert preflight.hub_token()


def test_models_in_the_hub_cache_are_not_fetched(big: plan.Experiment, tmp_path: Path) -> None:
    """By revision: another snapshot of the same repository does not count."""
    store = Store(tmp_path / "store")
    base, aligned = big.config.model.base, big.config.model.aligned
    assert len(preflight.hub_models(big, store)) == 3
    snapshot(tmp_path / "hub", str(base.id), str(base.revision))
    snapshot(tmp_path / "hub", str(aligned.id), "0" * 40)
    names = [name for name, *_ in preflight.hub_models(big, store)]
    assert base.id not in names and aligned.id in names and len(names) == 2
    # Half of a model is none: without the network the run would stop after the plan said that nothing lacks.
    next((tmp_path / "hub").rglob(f"{base.revision}/model-00002-of-00002.safetensors")).unlink()
    assert base.id in [name for name, *_ in preflight.hub_models(big, store)]


def test_models_in_the_store_are_not_fetched(big: plan.Experiment, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.partial(big.base).mkdir(parents=True)
    store.commit(big.base, {})
    assert big.config.model.base.id not in [name for name, *_ in preflight.hub_models(big, store)]


def test_stages_that_need_no_gpu_ask_for_none(big: plan.Experiment, tmp_path: Path) -> None:
    """Merging and reporting run on any machine that has the artifacts."""
    config = big.config.model_copy(update={"stages": ["similarity", "merge", "report"]})
    assert preflight.missing(plan.build(config), Store(tmp_path)) == []


def test_the_judge_counts_too_and_devices_share_what_is_sharded(big: plan.Experiment) -> None:
    needs = preflight.gpu_needs(big)
    judge = big.config.judge["llama_guard_3_8b"]
    assert needs["judge"] > judge.download_gb / 1.08  # type: ignore[union-attr]
    halves = preflight.gpu_needs(
        experiment(
            "llama3.1-8b", "train.parallel=fsdp", "train.devices=2", "generation.tensor_parallel_size=2"
        )
    )
    assert all(halves[stage] < 0.8 * need for stage, need in needs.items())
    small = experiment("llama3.1-8b", "judge=[llama_guard_3_1b,refusal]")
    assert preflight.gpu_needs(small)["judge"] < needs["judge"] / 2
    larger = big.config.model_copy(deep=True)
    larger.judge["llama_guard_3_8b"].download_gb = 140.0  # type: ignore[union-attr]
    assert "GiB for judge" in preflight.missing(plan.build(larger), Store(Path("nowhere")))[0]


def test_a_disk_without_room_for_the_models_is_found(
    big: plan.Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = preflight.hub_models(big, Store(tmp_path))
    size = sum(gb for _, _, gb, _ in models)
    assert size > 40
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: USAGE(0, 0, int(size * 1e9)))
    [said] = preflight.disk_short(models)
    assert said.startswith(f"{1.1 * size:.0f} GB of disk (") and str(tmp_path) in said and "HF_HOME" in said
    assert any("of disk" in lack for lack in preflight.missing(big, Store(tmp_path)))
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: USAGE(0, 0, int(1.2 * size * 1e9)))
    assert preflight.disk_short(models) == []


def test_a_store_without_room_for_the_grid_is_found(
    tiny: plan.Experiment, big: plan.Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: USAGE(0, 0, 10**6))
    [said] = preflight.missing(tiny, Store(tmp_path))
    assert "GB of disk for the store (0.0 GB are free in " in said and "set store=DIR" in said
    [needed] = preflight.store_short(big)
    assert float(needed.split(" ")[0]) > 33 * 4 * 3.4e6 / 1e9, "33 merged adapters, each of rank 8 at least"
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: USAGE(0, 0, 10**12))
    assert preflight.store_short(big) == []


def test_more_gpus_than_there_are_are_not_waited_for(
    big: plan.Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "gpus", lambda: [{"name": "x", "memory_gib": 79.6}] * 4)
    assert preflight.gpus_short(big) == []
    eight = experiment("llama3.1-8b", "hardware=8x80gb")
    assert preflight.gpus_short(eight) == [
        "8 GPUs for train.devices=8 (4 here)",
        "8 GPUs for generation.tensor_parallel_size=1 and generation.data_parallel_size=8 (4 here)",
    ]
    judged = eight.config.model_copy(update={"stages": ["judge"]})
    assert len(preflight.gpus_short(plan.build(judged))) == 1
    monkeypatch.setattr(preflight, "gpus", list)
    sharded = experiment("tiny", "train.parallel=fsdp", "train.devices=2")
    assert "GPUs for train.parallel=fsdp" in preflight.missing(sharded, Store(tmp_path))[0]


def test_a_model_of_unknown_shape_counts_by_its_parameters(big: plan.Experiment) -> None:
    def unknown(parameters: float) -> float:
        model = big.config.model.model_copy(update={"shape": None, "parameters": parameters})
        return preflight.gpu_needs(plan.build(big.config.model_copy(update={"model": model})))["finetune"]

    assert unknown(70e9) > unknown(8e9) > 8e9 * 2 / 2**30
    assert unknown(8.03e9) == pytest.approx(preflight.gpu_needs(big)["finetune"], rel=0.2)


def test_merging_a_and_b_apart_needs_equal_ranks(tmp_path: Path) -> None:
    """Found before the training of the other adapter, not after it."""
    adapter = write_lora(tmp_path / "mine", rank=4)

    def required(*overrides: str) -> None:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = check(compose("config", ["model=tiny", f"task_adapter={adapter}", *overrides]))
        preflight.require(plan.build(config), Store(tmp_path))

    with pytest.raises(
        UserError, match=r"task adapter has rank 4 and the safety adapter rank 8: full, safemerge"
    ):
        required()
    required("train.lora.r=4")
    required("method=[aligned,finetuned,safelora,safemerge]")
    configured(adapter, r="four")
    with pytest.raises(UserError, match=r"r='four' in its adapter_config\.json is not a whole number"):
        required()


def test_rows_in_a_cache_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With models, rows and the GitHub file at hand, nothing is said of a network that is not there."""
    x = experiment("smollm2-135m-hub", "judge=[refusal]")
    store = Store(tmp_path / "store")
    said = " ".join(preflight.missing(x, store))
    assert "directharm, gsm8k, xstest to fetch" in said and "GitHub, which does not answer" in said
    monkeypatch.setattr("data.loading.at_hand", lambda *_, **__: True)
    monkeypatch.setattr("safemerge.hub_model.cached", lambda _: True)
    assert preflight.missing(x, store) == []


def own(base: Path, aligned: Path) -> list[str]:
    """The overrides that put folders in the place of the model's two members."""
    return [text for role, path in (("base", base), ("aligned", aligned))
            for text in (f"~model.{role}", f"+model.{role}={{kind:local,path:{path}}}")]  # fmt: skip


def test_an_adapter_of_another_model_is_refused_before_the_training(tmp_path: Path) -> None:
    """As the task or the safety adapter: by name while the models are on the hub, by weights once they are here."""
    good = write_lora(tmp_path / "good", base="HuggingFaceTB/SmolLM2-135M-Instruct")
    others = {
        "was trained on the base model": write_lora(tmp_path / "base", base="unsloth/SmolLM2-135M-bnb-4bit"),
        "was trained on mistralai/x": write_lora(tmp_path / "other", base="mistralai/x"),
        "has rank_pattern|rank_pattern=": configured(
            write_lora(tmp_path / "malformed"), rank_pattern={"*": 4}
        ),
        "is a LOKR adapter": configured(write_lora(tmp_path / "lokr"), peft_type="LOKR"),
    }

    def required(*overrides: str) -> None:
        preflight.own_adapters(experiment("smollm2-135m-hub", *overrides), Store(tmp_path / "store"))

    required(f"task_adapter={good}", f"safety_adapter={good}")
    for message, its in others.items():
        for role, other in (("task", "safety"), ("safety", "task")):
            with pytest.raises(UserError, match=message):
                required(f"{role}_adapter={its}", f"{other}_adapter={good}")
    base, aligned = save_pair(tmp_path)
    local = own(base, aligned)
    required(*local, f"task_adapter={write_lora(tmp_path / 'fits', base=str(aligned))}")
    with pytest.raises(UserError, match="was trained on the base model"):
        required(*local, f"safety_adapter={write_lora(tmp_path / 'on base', base=str(base))}")


def test_two_sets_of_weights_are_refused_before_the_training(tmp_path: Path) -> None:
    for shards, message in (
        (True, "holds two sets of weights"),
        (False, "whose shards are gone, with which vLLM fails"),
    ):
        base, aligned = save_pair(tmp_path / str(shards))
        with_stale_index(aligned, shards=shards)
        with pytest.raises(UserError, match=message):
            preflight.own_models(experiment("smollm2-135m-hub", *own(base, aligned)))
