"""claims.yaml as models: what is claimed, by whom, and the measurement that decides it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from evaluation.published import published
from evaluation.run_file import Role
from safemerge.errors import UserError

LEDGER = Path(__file__).with_name("claims.yaml")
Direction = Literal["less", "more", "no_less", "no_more"]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Row(Part):
    """Which row of the result tables: what is None may be anything. combine `same`: as the row it is subtracted from."""

    method: str | None = None
    rule: str | None = None  # how the modules are selected, of controls
    combine: str | None = None
    alpha: float | None = None


class Contrast(Part):
    """`row` minus `minus` on the prompts of the headline benchmark of a role, or of the one named.

    direction: of the claim. less, more: by `least` at the least, the smallest effect that counts. no_less, no_more: `least`
    is the margin that may be lost. As shares (rates), bits per token (utility) or nats (harm, over-refusal; continuous).
    """

    kind: Literal["difference"] = "difference"
    role: Role
    benchmark: str | None = None
    metric: Literal["rate", "continuous"] = "rate"
    row: Row
    minus: Row
    direction: Direction
    least: float = Field(gt=0)


class Stability(Part):
    """Whether two seeds merge the same modules, beyond chance by `least` in the Jaccard index; or order rho/null alike.

    of `ratio`: Kendall's tau of rho/null, of which `least` is asked.
    """

    kind: Literal["stability"]
    of: Literal["merged", "ratio"]
    least: float = Field(gt=0, lt=1)


class Judges(Part):
    """Whether the claims named here are decided alike by every judge that has read the replies."""

    kind: Literal["judges"]
    claims: list[str]


class Merged(Part):
    """The share of the modules that SafeMERGE merges at a fixed tau: a count, which sampling does not touch."""

    kind: Literal["merged"]
    tau: float
    share: float
    within: float


def _kind(value: object) -> str:
    """Which measurement is meant; a contrast need not say so."""
    return str(value.get("kind", "difference") if isinstance(value, dict) else getattr(value, "kind", ""))


Measurement = Annotated[
    Annotated[Contrast, Tag("difference")]
    | Annotated[Stability, Tag("stability")]
    | Annotated[Judges, Tag("judges")]
    | Annotated[Merged, Tag("merged")],
    Discriminator(_kind),
]


class Where(Part):
    """The cell that a published claim is about; data that stands in for its benchmarks is not it."""

    model: str
    task: str | None = None


class Claim(Part):
    """A claim with its source and grade: A an unpublished summary, B digests of the paper, C the authors' code."""

    id: str
    says: str
    across: str = ""  # what it says where the arithmetic is left open; "": the same
    by: Literal["paper", "ours"]
    grade: list[Literal["A", "B", "C"]] = []
    where: Where | None = None
    prediction: str = ""
    given: str = ""  # a claim without which there is nothing to decide: without harm nothing is recovered
    decided_by: Measurement

    @property
    def predicted(self) -> str:
        """What is predicted: as it is written, or the published numbers' difference."""
        its = self.decided_by
        if self.prediction or self.where is None or not isinstance(its, Contrast):
            return self.prediction
        metric = "utility" if its.role == "utility" else its.benchmark or "directharm"
        ours, theirs = (
            published(self.where.model, self.where.task or "any", row.method or "", metric)
            for row in (its.row, its.minus)
        )
        return "" if ours is None or theirs is None else f"{ours - theirs:+.1f} points"


@lru_cache(maxsize=4)
def read_claims(path: Path = LEDGER) -> tuple[Claim, ...]:
    """The claims of a ledger.

    Raises:
        UserError: it cannot be read, or says something that no claim has; an id twice, or one that there is not.
    """
    try:
        claims = tuple(Claim.model_validate(its) for its in yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, TypeError) as error:
        raise UserError(
            f"cannot read the claims in {path}: {' '.join(str(error).split())}; give a list of claims"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{path}: {where}: {first['msg']}; evaluation/ledger.py says what a claim has"
        ) from error
    ids = [claim.id for claim in claims]
    named = [
        name for claim in claims if isinstance(claim.decided_by, Judges) for name in claim.decided_by.claims
    ]
    contrasts = {claim.id for claim in claims if isinstance(claim.decided_by, Contrast)}
    named += [claim.given for claim in claims if claim.given]
    wrong = [name for name in ids if ids.count(name) > 1] + [name for name in named if name not in contrasts]
    if wrong:
        raise UserError(
            f"{path}: the id {wrong[0]!r} stands twice, or names no claim about a difference; mend it"
        )
    return claims
