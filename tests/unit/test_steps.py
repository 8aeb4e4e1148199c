"""The batch that is trained on does not depend on how many devices share it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st

from pipeline import answers
from pipeline.steps import ACCUMULATION, PER_DEVICE, shared
from pipeline.unkeyed import Engine, Share
from safemerge.errors import UserError
from tests.planning import experiment

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.fixture(autouse=True, scope="module")
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@given(st.integers(1, 16), st.integers(1, 8), st.integers(1, 8))
def test_devices_share_the_batch(size: int, steps: int, devices: int) -> None:
    if size * steps % devices:
        with pytest.raises(
            UserError, match=f"train.devices={devices} cannot share a batch of {size * steps} rows"
        ):
            shared(size, steps, devices)
        return
    part = shared(size, steps, devices)
    assert part.rows * part.accumulation * part.devices == size * steps and part.devices == devices
    assert 1 <= part.rows <= size, "no device holds more rows at once than it was given"


def test_the_same_adapter_from_two_devices() -> None:
    one, two = experiment(), experiment("train.devices=2")
    assert one.adapters["task"].key == two.adapters["task"].key
    other = experiment(f"train.args.{PER_DEVICE}=4", f"train.args.{ACCUMULATION}=2")
    assert other.adapters["task"].key == one.adapters["task"].key
    assert experiment(f"train.args.{PER_DEVICE}=4").adapters["task"].key != one.adapters["task"].key


@pytest.mark.parametrize("hardware", sorted(path.stem for path in (CONF / "hardware").glob("*.yaml")))
def test_hardware_changes_no_result(hardware: str) -> None:
    """Composed and planned: the same keys, the batch of train=paper, and the devices that the name says."""
    plain, its = (experiment(*more, model="llama3.1-8b") for more in ([], [f"hardware={hardware}"]))
    for role in plain.adapters:
        assert plain.adapters[role].key == its.adapters[role].key
    devices = int(hardware.partition("x")[0])
    for step in its.trained:
        share = step.unkeyed
        assert isinstance(share, Share) and share.devices == devices
        assert share.devices * share.rows * share.accumulation == 16
    generation = its.config.generation
    assert generation.tensor_parallel_size * generation.data_parallel_size == devices
    replies = answers.completions(its, its.adapters["task"], "gsm8k", "dev").unkeyed
    assert isinstance(replies, Engine) and replies.data_parallel_size == generation.data_parallel_size


@pytest.mark.parametrize("setting", ["dataloader_drop_last=true", "train_sampling_strategy=batch_rebalance"])
def test_what_ranks_would_do_otherwise_is_refused(setting: str) -> None:
    assert experiment(f"+train.args.{setting}").adapters["task"].key
    with pytest.raises(
        UserError, match=rf"train\.args\.{setting.partition('=')[0]}=.*train\.devices=1 instead of 2"
    ):
        experiment(f"+train.args.{setting}", "train.devices=2")


def test_memory_saved_by_computing_twice_is_not_in_the_key() -> None:
    one, two = experiment(), experiment("train.args.gradient_checkpointing=true")
    assert one.adapters["task"].key == two.adapters["task"].key
    shares = [x.trained[0].unkeyed for x in (one, two)]
    assert [its.gradient_checkpointing for its in shares if isinstance(its, Share)] == [False, True]


def test_a_batch_that_cannot_be_shared_is_refused_before_anything_starts() -> None:
    with pytest.raises(UserError, match=r"train\.devices=3 cannot share"):
        experiment("train.devices=3")
