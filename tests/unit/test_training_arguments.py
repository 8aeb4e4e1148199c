"""The arguments in conf/train are those of the libraries that take them; in a file of its own, as these import slowly."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml
from peft import LoraConfig
from trl import SFTConfig

CONF = Path(__file__).resolve().parents[2] / "conf" / "train"
TRAINS = sorted(path.stem for path in CONF.glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("train", TRAINS)
def test_training_arguments_are_those_of_trl_and_peft(train: str) -> None:
    """And none of those that the fine-tuning stage sets itself, which would be given twice."""
    node = yaml.safe_load((CONF / f"{train}.yaml").read_text())
    known = {f.name for f in dataclasses.fields(SFTConfig)}
    ours = {"output_dir", "seed", "data_seed", "completion_only_loss", "save_strategy", "save_total_limit",
            "report_to", "disable_tqdm", "use_cpu"}  # fmt: skip
    assert set(node["args"]) <= known - ours
    assert set(node["lora"]) <= {f.name for f in dataclasses.fields(LoraConfig)}
    for role in ("task", "safety", "safeinstruct", "align", "guard"):
        assert set((node[role] or {}).get("args", {})) <= set(node["args"])
