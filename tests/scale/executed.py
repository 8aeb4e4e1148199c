"""What a store's manifests say was made in it: the stages that a run went through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

#: The setting that tells the kinds of one stage apart.
KIND = {
    "prepare": "what",
    "finetune": "role",
    "generate": "backend",
    "judge": "kind",
    "likelihood": "measure",
}


def stages_of(store: Path) -> list[tuple[str, str]]:
    """(stage, kinds of it), sorted; kinds are joined by commas, "" where there are none."""
    found: dict[str, set[str]] = {}
    for path in store.glob("*/*/manifest.json"):
        made = json.loads(path.read_text(encoding="utf-8"))
        found.setdefault(made["stage"], set()).add(_kind(made["stage"], made["settings"]))
    return [(stage, ", ".join(sorted(kinds - {""}))) for stage, kinds in sorted(found.items())]


def _kind(stage: str, settings: dict[str, Any]) -> str:
    if stage == "merge":
        repair = settings["repair"]
        return str(repair["combine"] if repair["kind"] == "blend" else repair["kind"])
    return str(settings.get(KIND.get(stage, ""), ""))
