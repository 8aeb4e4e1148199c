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
            "is not in it. Tokens are those trained on, generated, or read by a judge."
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


def artifacts_by_stage(run: RunFile) -> dict[str, int]:
    """How many artifacts the points of a run have, by the first word of the stage's title in `costs`."""
    points = [(entry.seed, point) for entry in run.runs for point in entry.points]
    adapters = {(seed, point.adapter) for seed, point in points}
    return {
        "merging": len({(seed, p.adapter) for seed, p in points if p.merged_modules}),
        "generation": len({file for _, p in points for files in p.completions.values() for file in files}),
        "engine": len(adapters),
        "judge": len(
            {
                file
                for _, p in points
                for its in p.verdicts.values()
                for files in its.values()
                for file in files
            }
        ),
        "likelihoods": len({file for _, p in points for files in p.measures.values() for file in files}),
    }


def points_table(runs: Sequence[RunFile]) -> Table:
    """What one more point of the grid costs in each stage: seconds per artifact, times the artifacts of a point."""
    table = Table(
        "Cost of a sweep point",
        ["Run", "Stage", "s per artifact", "Artifacts per point", "s per point", "Tokens/s"],
        note=(
            "Means over the points of the run, loading included, which all points of a stage share. Two points that select "
            "the same modules are one adapter, and cost once."
        ),
    )
    for run in runs:
        points, whole = sum(len(entry.points) for entry in run.runs), 0.0
        for stage, number in artifacts_by_stage(run).items():
            its = [
                cost for cost in run.costs if cost.title.partition(" ")[0].rstrip(",") == stage and cost.made
            ]
            made, wall = sum(cost.made for cost in its), sum(cost.wall_s for cost in its)
            if not made or not number or not points:
                continue
            each, share = wall / made, number / points
            tokens = sum(cost.tokens or 0 for cost in its)
            speed = tokens / wall if wall else 0.0
            whole += each * share
            table.add(
                run.run,
                stage if stage != "engine" else "engine check",
                (f"{each:.2f}", each),
                (f"{share:.2f}", share),
                (f"{each * share:.1f}", each * share),
                (f"{speed:,.0f}", speed) if speed else "–",
            )
        if whole:
            table.add(run.run, "all", "–", "–", (f"{whole:.1f}", whole), "–")
    return table
