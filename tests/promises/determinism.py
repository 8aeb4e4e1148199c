"""Which stages give the same bytes for the same seed on the same machine, and how far batched decoding does not."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.artifacts import COMPLETIONS
from tests.promises.kills import undisturbed
from tests.promises.runs import Place

#: Made from completions, or by the engine.
OF_THE_ENGINE = ("generate", "parity", "judge", "likelihood", "check")


def by_stage(first: dict[str, str], second: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Of each stage: how many files two runs have, how many are equal, and the names of those that are not."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(first.keys() | second.keys()):
        parts = path.split("/")
        its = found.setdefault(
            parts[1] if parts[0] == "store" else "report", {"files": 0, "equal": 0, "others": []}
        )
        its["files"] += 1
        if first.get(path) == second.get(path):
            its["equal"] += 1
        elif parts[-1] not in its["others"]:
            its["others"].append(parts[-1])
    return found


@dataclass(frozen=True)
class Batched:
    """Completions of one prompt at a time against those of all at once. `gap`: the largest of log-probabilities (nats)."""

    completions: int
    same_text: int
    same_logprob: int
    gap: float

    def record(self) -> dict[str, Any]:
        return asdict(self)


def rows(place: Place) -> dict[tuple[str, str], dict[str, Any]]:
    """All completions of a store, by artifact and prompt."""
    return {
        (path.parent.name, row["id"]): row
        for path in sorted(place.store.glob(f"generate/*/{COMPLETIONS}"))
        for row in map(json.loads, path.read_text().splitlines())
    }


def batched(alone: Place, together: Place) -> Batched:
    """Generate again in another place, from copies of the same adapters: batch sizes are no part of any key."""
    shutil.rmtree(together.folder, ignore_errors=True)
    shutil.copytree(alone.store, together.store, ignore=shutil.ignore_patterns(*OF_THE_ENGINE))
    undisturbed(together)
    ours, theirs = rows(alone), rows(together)
    both = sorted(ours.keys() & theirs.keys())
    gaps = [
        abs(ours[key]["logprob"] - theirs[key]["logprob"])
        for key in both
        if ours[key]["completion_ids"] == theirs[key]["completion_ids"]
    ]
    return Batched(
        len(both),
        sum(ours[key]["completion_ids"] == theirs[key]["completion_ids"] for key in both),
        sum(gap == 0 for gap in gaps),
        round(max(gaps, default=0.0), 6),
    )
