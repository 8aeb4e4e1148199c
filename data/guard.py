"""Labelled (prompt, reply) pairs for the judges of ours: bundled only, in `GuardRow`'s own columns."""

from __future__ import annotations

from data.dataset import Dataset

#: What fits a judge, what sets its threshold, and what measures it: no two of them share a prompt or a reply.
SPLITS = ("train", "tuning", "heldout")
GUARD = Dataset("guard", bundled={split: f"guard_{split}.jsonl" for split in SPLITS})
