"""What the stages of a run cost, as a table of the report."""

from __future__ import annotations

from typing import Any

from evaluation.tables import Table


def costs_table(runs: list[dict[str, Any]]) -> Table:
    """A row per stage of each run.json that made something; what was found in the store cost nothing."""
    table = Table(
        "Cost of the stages",
        ["Run", "Stage", "Artifacts made", "Wall s", "CPU s", "Tokens", "Tokens/s", "Peak GiB"],
        note=(
            "Of the last run of that name that made something, loading included; what an earlier, interrupted one had made "
            "is not in it. Tokens are those trained on or generated."
        ),
    )
    for run in runs:
        for cost in run.get("costs") or []:
            tokens, wall = cost["tokens"], cost["wall_s"]
            speed = tokens / wall if tokens and wall else None
            table.add(
                str(run.get("run", "")),
                cost["title"],
                (str(cost["made"]), float(cost["made"])),
                (f"{wall:.1f}", float(wall)),
                (f"{cost['cpu_s']:.1f}", float(cost["cpu_s"])),
                (f"{tokens:,}", float(tokens)) if tokens is not None else "–",
                (f"{speed:,.0f}", speed) if speed else "–",
                (f"{cost['peak_memory_bytes'] / 2**30:.2f}", float(cost["peak_memory_bytes"])),
            )
    return table
