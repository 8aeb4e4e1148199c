"""No stage writes other values than its version is known for."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.store import VERSIONS
from tests import golden

#: The check stage has no number to raise: its code is part of its key. What lm-eval writes is lm-eval's, an extra whose
#: version is part of the key; `test_lm_eval.py` looks at what is made of it.
STAGES = sorted(set(VERSIONS) - {"check", "lm_eval"})


def alike(ours: Any, noted: Any) -> bool:
    """Equal, but for the last digits of numbers, in which processors differ."""
    if isinstance(ours, float) or isinstance(noted, float):
        return bool(ours == pytest.approx(noted, rel=5e-3, abs=1e-4))
    if isinstance(ours, dict) and isinstance(noted, dict):
        return ours.keys() == noted.keys() and all(alike(ours[key], noted[key]) for key in ours)
    if isinstance(ours, list) and isinstance(noted, list):
        return len(ours) == len(noted) and all(map(alike, ours, noted))
    return bool(ours == noted)


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return golden.found(tmp_path_factory.mktemp("golden"))


def test_every_stage_is_recorded(values: dict[str, Any]) -> None:
    assert sorted(values) == sorted(golden.recorded()) == STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_writes_other_values_has_another_version(values: dict[str, Any], stage: str) -> None:
    note = golden.recorded()[stage]
    assert note["version"] == VERSIONS[stage], "record the new version's values: python -m tests.golden"
    assert alike(values[stage], note["value"]), (
        f"{stage} writes other values: if that is meant, raise its number in pipeline.store.VERSIONS "
        "and record them: python -m tests.golden"
    )


def test_the_comparison_sees_a_difference() -> None:
    note = {"loss": [5.98, 5.97], "labels": ["a"]}
    assert alike({"loss": [5.981, 5.97], "labels": ["a"]}, note)
    assert not alike({"loss": [5.5, 5.97], "labels": ["a"]}, note)
    assert not alike({"loss": [5.98], "labels": ["a"]}, note)
    assert not alike({"loss": [5.98, 5.97], "labels": ["b"]}, note)
