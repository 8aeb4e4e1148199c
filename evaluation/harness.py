"""What lm-evaluation-harness found: its tasks on the rows of a report, as columns beside ours."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from evaluation.run_file import PointRecord
from safemerge.errors import UserError


@dataclass(frozen=True)
class Score:
    """One metric of one task as the harness gives it; `filter` is what read the answers ("none": nothing did).

    limit: the first so many items, None for all. stderr is NaN where the harness gives none.
    """

    task: str
    metric: str
    filter: str
    value: float
    stderr: float
    n: int
    limit: int | None
    higher_is_better: bool
    version: str  # of the harness

    @property
    def column(self) -> str:
        """What a table calls it."""
        kind = self.metric if self.filter in ("none", "") else f"{self.metric}, {self.filter}"
        first = f", first {self.limit}" if self.limit else ""
        arrow = "↑" if self.higher_is_better else "↓"
        return f"{self.task} ({kind}{first}) {arrow}"


Seeds = list[Score]  # one column of one row


def write(path: Path, scores: Sequence[Score]) -> None:
    """The scores of one task on one adapter; a missing standard error is null."""
    rows = [
        {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(s).items()}
        for s in scores
    ]
    path.write_text(json.dumps(rows, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read(path: Path) -> list[Score]:
    """What `write` wrote.

    Raises:
        UserError: it is not there or is no such file.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [
            Score(**{**row, "stderr": math.nan if row["stderr"] is None else row["stderr"]}) for row in rows
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"cannot read {path} ({error}): run python -m pipeline.lm_eval again, then the report"
        ) from error


def of_seeds(points: Sequence[tuple[Path, PointRecord]]) -> dict[str, Seeds]:
    """By column, the scores of a row's point in each seed that has one; the paths of a point are below its folder."""
    found: dict[str, Seeds] = {}
    for root, point in points:
        newest = {score.column: score for file in point.harness for score in read(root / file)}
        for column, score in newest.items():
            found.setdefault(column, []).append(score)
    return found


def cell(seeds: Seeds | None) -> tuple[str, float]:
    """`0.412 ± 0.042 (n=541)`, over seeds `0.412 (0.405; 0.419; n=541)`; and the value to sort by."""
    if not seeds:
        return "–", math.nan
    mean = sum(score.value for score in seeds) / len(seeds)
    n = f"n={seeds[0].n}"
    if len(seeds) > 1:
        each = "; ".join(f"{score.value:.3f}" for score in seeds)
        return f"{mean:.3f} ({each}; {n})", mean
    error = seeds[0].stderr
    return f"{mean:.3f}" + ("" if math.isnan(error) else f" ± {1.96 * error:.3f}") + f" ({n})", mean


def sentence(scores: Sequence[Score]) -> str:
    """What the columns are, for the note under the table."""
    versions = ", ".join(sorted({score.version for score in scores}))
    return (
        f"Columns with a metric in parentheses are lm-evaluation-harness {versions}'s own, on its own prompts, in its own "
        "unit: value ± 1.96 standard errors; over seeds, their mean and each."
    )
