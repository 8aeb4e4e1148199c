"""The jobs of a multirun: what each comes back with, and what is said of the failed ones at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

DIED = "its process was ended from outside (often too little memory); what it had finished is kept"


@dataclass(frozen=True)
class Outcome:
    """How a job ended: its exit code, and the reason in one line."""

    code: int = 0
    reason: str = ""


def told(jobs: Sequence[Sequence[str]], outcomes: Sequence[Outcome], console: Console) -> int:
    """Name the failed jobs, a line each with what sets a job apart from the others.

    jobs: the overrides of each.

    Returns:
        0 if none failed; 2 if all failures are the user's to mend, else 1.
    """
    failed = [(job, its) for job, its in zip(jobs, outcomes, strict=True) if its.code]
    if not failed:
        return 0
    common = set.intersection(*map(set, jobs)) if len(jobs) > 1 else set()
    console.print(
        f"{len(failed)} of {len(jobs)} jobs failed; rerun the same command to resume:",
        style="red",
        markup=False,
    )
    for job, its in failed:
        own = " ".join(override for override in job if override not in common) or " ".join(job)
        console.print(f"  {own}: {its.reason}", style="red", markup=False)
    return 2 if all(its.code == 2 for _, its in failed) else 1
