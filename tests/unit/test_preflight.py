"""What a machine lacks is found out before anything starts, and said with its remedy."""

from __future__ import annotations

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

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU, no token, no network, an empty hub cache."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "hub" / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub" / "hub"))
    monkeypatch.setattr(preflight, "gpus", list)
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
        "Bianchi",
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
    assert "token" not in found and "network" not in found and "GPU" in found
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


def test_models_in_the_store_are_not_fetched(big: plan.Experiment, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.partial(big.base).mkdir(parents=True)
    store.commit(big.base, {})
    assert big.config.model.base.id not in [name for name, *_ in preflight.hub_models(big, store)]


def test_stages_that_need_no_gpu_ask_for_none(big: plan.Experiment, tmp_path: Path) -> None:
    """Merging and reporting run on any machine that has the artifacts."""
    config = big.config.model_copy(update={"stages": ["similarity", "merge", "report"]})
    assert preflight.missing(plan.build(config), Store(tmp_path)) == []


def test_memory_grows_with_the_model() -> None:
    assert preflight.gpu_gib(70e9) > preflight.gpu_gib(8e9) > 8.03 * 2


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
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": "four"}')
    with pytest.raises(UserError, match="declares no rank r"):
        required()


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
