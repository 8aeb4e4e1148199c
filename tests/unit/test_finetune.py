"""What a training leaves is the same bytes in every process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.stages.finetune import in_order

NAMES = ["v_proj", "down_proj", "q_proj"]


@pytest.mark.parametrize("order", [NAMES, NAMES[::-1]])
def test_the_modules_of_an_adapters_config_are_sorted(tmp_path: Path, order: list[str]) -> None:
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({"target_modules": order, "r": 8}))
    in_order(path)
    assert path.read_text() == json.dumps({"r": 8, "target_modules": sorted(NAMES)}, indent=2)


def test_a_pattern_stays(tmp_path: Path) -> None:
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({"target_modules": "all-linear"}))
    in_order(path)
    assert json.loads(path.read_text()) == {"target_modules": "all-linear"}
