"""The batch that is trained on does not depend on how many devices share it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st

from pipeline.steps import ACCUMULATION, PER_DEVICE, shared
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


def test_a_batch_that_cannot_be_shared_is_refused_before_anything_starts() -> None:
    with pytest.raises(UserError, match=r"train\.devices=3 cannot share"):
        experiment("train.devices=3")
