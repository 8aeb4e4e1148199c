"""The claims ledger as tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

from evaluation.analysis import Group
from evaluation.deciding import ClaimRow, Decided
from evaluation.run_file import RunFile
from evaluation.run_tables import commit_text
from evaluation.sections import points_text
from evaluation.tables import Table, markdown

BY = {"ours": "Claims of ours", "paper": "Claims of the paper"}
NOTE = (
    "Decided from this run's artifacts alone, with the points of the main table on its prompts ({prompts}). "
    "Reproduced: the interval excludes no effect, and what was seen is at least the smallest effect that counts (of “up "
    "to”: the interval excludes a loss of that margin). Not reproduced: the interval excludes an effect that counts, and "
    "one of that size would have been shown, or the opposite of such a size was seen; below that power the outcome is "
    "inconclusive. Shows: the smallest difference that these prompts and seeds show with 80 % power, by the exact McNemar "
    "test with as many prompts changing against the difference as did here, or by the interval over seeds if that needs "
    "more. Intervals are 95 %, unadjusted for the number of claims; they do not cover the draws of random modules, and "
    "with one seed its prompts only. What counts is our choice: evaluation/claims.yaml."
)


def claims_table(group: Group, by: str) -> Table:
    """The claims of one side, and what this group says of them."""
    columns = ["Claim", *(["Source"] if by == "paper" else []), "Outcome", "Measured", "Shows", "Predicted"]
    table = Table(BY[by], columns, note=NOTE.format(prompts=group.prompts) if by == "ours" else "")
    rows = [row for row in group.claims if row.by == by]
    if by == "paper":
        table.note = (
            "Source: A an unpublished summary that this repository was written from, B digests of the paper, C the "
            "authors' code; predictions are differences of the published numbers. A claim about another model is not "
            "tested by this run, and neither is one whose benchmarks this run's data stands in for."
        )
    elif any(row.stand_in for row in rows):
        table.note += " The data of this run is a bundled stand-in: none of this is a replication of the paper's results."
    for row in rows:
        source = [row.grade] if by == "paper" else []
        table.add(
            f"{row.says} ({row.id})",
            *source,
            outcome_text(row, len(group.seeds)),  # first, as a browser shows three columns without scrolling
            measured_text(row.decided),
            shown_text(row.decided),
            row.predicted or "–",
        )
        if row.decided.outcome in ("reproduced", "not reproduced"):
            table.marked.add(len(table.rows) - 1)
    return table


def measured_text(its: Decided) -> str:
    """What was subtracted from what, and the difference with its interval and each seed's."""
    found = its.found
    if found is None:
        return its.measured or "–"
    texts = [_text(value, its.unit) for value in (found.difference, found.low, found.high)]
    seeds = (
        f" ({'; '.join(_text(value, its.unit) for value in found.values)})" if len(found.values) > 1 else ""
    )
    return f"{its.measured}: {texts[0]} [{texts[1]}, {texts[2]}] {its.unit}{seeds}"


def shown_text(its: Decided) -> str:
    """What so many prompts and seeds can show."""
    if its.found is None:
        return "–"
    n, seeds = its.found.n, its.found.seeds
    size = f"{n} prompts, {seeds} {'seed' if seeds == 1 else 'seeds'}"
    if math.isnan(its.detectable):
        return f"{size}: no difference at all"
    return f"{size}: {_text(its.detectable, its.unit).lstrip('+')} {its.unit} or more"


def outcome_text(row: ClaimRow, seeds: int) -> str:
    """The outcome and why; on stand-in data, and of one seed, it says so."""
    its = row.decided
    said: str = its.outcome
    if its.outcome == "inconclusive" and its.found:
        said += f": {shown_text(its).replace(': ', ' could show no less than ', 1).removesuffix(' or more')}"
    if its.outcome in ("reproduced", "not reproduced"):
        had = its.found.seeds if its.found else seeds  # a seed may lack one of the rows
        limits = [*(["stand-in data"] if row.stand_in else []), *(["one seed"] if had == 1 else [])]
        said += f" ({', '.join(limits)})" if limits else ""
    return f"{said}; {its.reason}"


def short_block(runs: Sequence[RunFile], groups: Sequence[Group]) -> str:
    """Our claims that the runs can say something of, in three columns; how many others there are, and where from."""
    parts = []
    for group in groups:
        table = Table("", ["Claim", "Measured", "Outcome"])
        mine = [row for row in group.claims if row.by == "ours"]
        for row in mine:
            if row.decided.outcome == "not decidable":
                continue
            outcome = outcome_text(row, len(group.seeds)).split("; ")[0]
            table.add(row.says, measured_text(row.decided), outcome)
            if row.decided.outcome in ("reproduced", "not reproduced"):
                table.marked.add(len(table.rows) - 1)
        open_ = [row for row in mine if row.decided.outcome == "not decidable"]
        theirs = [row for row in group.claims if row.by == "paper"]
        tested = [row for row in theirs if row.decided.outcome != "not tested here"]
        seeds = ", ".join(map(str, group.seeds))
        parts += [
            f"**{group.title}: seeds {seeds}, {group.prompts}; harm by the judge {group.judge}**",
            markdown(table),
            f"{len(open_)} further claims of ours cannot be decided by these rows; of {len(theirs)} claims of the paper, "
            f"which are about other models, {len(tested)} are tested here. `python -m evaluation.claims` has them all, and "
            "how each is decided.",
        ]
    names = ", ".join(f"`{run.run}` (commit `{commit_text(run)}`)" for run in runs)
    return "\n\n".join([*parts, f"Generated by `python -m evaluation.claims` from {names}."])


def _text(value: float, unit: str) -> str:
    return points_text(value) if unit == "points" else f"{value:+.2f}"


def claims_block(groups: Sequence[Group]) -> str:
    """Both tables of every group, as Markdown."""
    parts = []
    for group in groups:
        parts.append(f"**{group.title}: seeds {', '.join(map(str, group.seeds))}**")
        for by in BY:
            table = claims_table(group, by)
            parts += [f"*{table.title}*", markdown(table), table.note]
    return "\n\n".join(parts)
