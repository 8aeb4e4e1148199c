"""Where the numbers of a report come from, and what they cost."""

from __future__ import annotations

import json
from collections.abc import Sequence

from evaluation.run_file import RunFile
from evaluation.tables import Table, list_text


def provenance_table(runs: Sequence[RunFile]) -> Table:
    """A row per run.json."""
    table = Table("Provenance", ["Run", "Created", "Commit", "Seeds", "Machine", "Wall time", "Packages"])
    for run in runs:
        table.add(
            run.run,
            run.created,
            commit_text(run) + made_text(run).replace("`", ""),
            seeds_text(run),
            machine_text(run),
            f"{run.wall_time_s / 60:.1f} min",
            ", ".join(f"{k} {v}" for k, v in run.packages.items()),
        )
    return table


def seeds_text(run: RunFile) -> str:
    """The seeds of its entries."""
    return list_text(list(dict.fromkeys(entry.seed for entry in run.runs)))


def commit_text(run: RunFile) -> str:
    """Short commit, and the hash of what was not committed."""
    changes = f" + uncommitted changes {run.git.changes or ''}".rstrip() if run.git.dirty else ""
    return (run.git.commit or "unknown")[:10] + changes


def made_text(run: RunFile) -> str:
    """The code that made the artifacts, where it is another than the reporting one."""
    others = [code for code in run.made_by if code != run.git.code]
    return f" from artifacts of {', '.join(f'`{code}`' for code in others)}" if others else ""


def machine_text(run: RunFile) -> str:
    """The machine's fields as one line."""
    fields = {k: v for k, v in run.machine.model_dump().items() if v not in (None, "", [])}
    return ", ".join(
        f"{k} {v if isinstance(v, str | int | float) else json.dumps(v)}" for k, v in fields.items()
    )


def costs_table(runs: Sequence[RunFile]) -> Table:
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
        for cost in run.costs:
            tokens, wall = cost.tokens, cost.wall_s
            speed = tokens / wall if tokens and wall else None
            table.add(
                run.run,
                cost.title,
                (str(cost.made), float(cost.made)),
                (f"{wall:.1f}", wall),
                (f"{cost.cpu_s:.1f}", cost.cpu_s),
                (f"{tokens:,}", float(tokens)) if tokens is not None else "–",
                (f"{speed:,.0f}", speed) if speed else "–",
                (f"{cost.peak_memory_bytes / 2**30:.2f}", float(cost.peak_memory_bytes)),
            )
    return table
