"""Labelled (prompt, reply) pairs for the judges of ours: bundled only, in `GuardRow`'s own columns."""

from __future__ import annotations

from data.dataset import Dataset

GUARD = Dataset("guard", bundled={"train": "guard_train.jsonl", "calibration": "guard_calibration.jsonl"})
