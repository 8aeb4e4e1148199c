"""What a check is: it looks at the artifacts of a run, says what it found, and owns up to what it cannot see."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from data.schema import Completion
from evaluation.run_file import Check
from pipeline import artifacts, grid, plan
from pipeline.store import Step, Store

Look = Callable[[plan.Experiment, Store, list[grid.Candidate]], Check]


@dataclass(frozen=True)
class Rule:
    """A check. `blind_to`: what it does not see, in one sentence, which docs/trust.md shows beside what it finds."""

    look: Look
    blind_to: str

    def __call__(self, x: plan.Experiment, store: Store, candidates: list[grid.Candidate]) -> Check:
        return self.look(x, store, candidates)


def blind_to(sentence: str) -> Callable[[Look], Rule]:
    """Make a rule of a function, with what it cannot see."""
    return lambda look: Rule(look, sentence)


def outcome(
    name: str,
    failed: list[str],
    passed: str,
    *,
    status: Literal["warn", "fail"] = "fail",
    affects: Iterable[str] = (),
) -> Check:
    """What a check found: the first five problems in `failed`, or what it says of a run without any."""
    more = f" and {len(failed) - 5} more" if len(failed) > 5 else ""
    detail = "; ".join(failed[:5]) + more if failed else passed
    return Check(name=name, status=status if failed else "pass", detail=detail, affects=list(affects))


def completed(store: Store, steps: Iterable[Step]) -> list[Completion]:
    """All completions of these steps."""
    return [row for step in steps for row in artifacts.completions(store.path(step))]
