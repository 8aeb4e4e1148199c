"""Typed readers of what lies in an artifact: what was written comes back, also what an earlier version wrote."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

from pipeline import artifacts
from pipeline.stage_settings import Merge, of_merge
from safemerge.changes import Changes, Effective
from safemerge.selection import Repair


def test_what_a_repair_reported(tmp_path: Path) -> None:
    assert artifacts.effective(tmp_path) is None, "nothing was merged"
    its = Changes(14, ["q", "v"], 8, effective=Effective(1.1, 0.45, math.nan, 0.9), notes=["one"])
    (tmp_path / artifacts.REPAIR).write_text(json.dumps(asdict(its)))
    found = artifacts.changes(tmp_path)
    assert (found.selected, found.merged_modules, found.rank, found.notes) == (["q", "v"], 2, 8, ["one"])
    effective = artifacts.effective(tmp_path)
    assert effective is not None and (effective.task, effective.safety) == (1.1, 0.45)
    assert math.isnan(effective.rest) and artifacts.shrink(tmp_path) is None


def test_the_report_of_a_repair_of_an_earlier_version(tmp_path: Path) -> None:
    old = {"modules": 14, "notes": [], "svd_error": None, "shrink": 0.01, "rank": 8, "selected": ["q"]}
    old |= {"merged_modules": 1, "output": "/there/adapter"}
    (tmp_path / artifacts.REPAIR).write_text(json.dumps(old))
    assert artifacts.shrink(tmp_path) == 0.01 and artifacts.effective(tmp_path) is None


def test_the_settings_of_a_merge_come_back_as_they_went() -> None:
    its = Merge(["q"], Repair("blend", alpha=0.8, combine="peft_linear"))
    assert of_merge(json.loads(json.dumps(its.keyed()))) == its
