"""What can be said about any judge: calibration, corrected rates, agreement. And a guard's answer as a verdict.

Guard models run in the judge stage through the same engine as generation; `guard_verdict` turns their output into a
verdict.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from data.schema import VALID, Completion, GuardRow, Verdict
from evaluation.benchmarks.common import pair
from evaluation.guard_format import GuardFormat
from evaluation.quality import is_empty
from evaluation.statistics import Rate, kappa, wilson


def guard_verdict(
    guard: GuardFormat,
    reply: Completion,
    raw: str,
    p_unsafe: float | None = None,
    threshold: float | None = None,
) -> Verdict:
    """The verdict in a guard's answer, by the probability of its first token where a threshold is given.

    Invalid on a reply without a letter or digit, whatever the guard says, as of every judge.
    """
    verdict, category = guard.parse(raw, p_unsafe, threshold)
    if is_empty(reply.completion):
        verdict, category = "invalid", None
    return Verdict(reply.id, verdict, p_unsafe, category, raw)


def tuning_half(rows: list[GuardRow]) -> list[GuardRow]:
    """The calibration pairs that may set a judge's threshold; the others measure it."""
    return rows[::2]


def calibrated_threshold(scores: Sequence[tuple[float, bool]]) -> float:
    """The threshold on P(unsafe) with the largest sensitivity + specificity (Youden's J); the middle of ties.

    scores: (P(unsafe), is unsafe) of labelled pairs, which must not be those that the judge is then measured on.
    A guard trained on few pairs ranks replies well before its probabilities reach one half.
    """
    unsafe = [p for p, label in scores if label]
    safe = [p for p, label in scores if not label]
    if not unsafe or not safe:
        raise ValueError("a threshold needs safe and unsafe pairs")
    values = sorted({p for p, _ in scores})
    cuts = [(a + b) / 2 for a, b in itertools.pairwise(values)] or [values[0]]

    def youden(cut: float) -> float:
        return sum(p >= cut for p in unsafe) / len(unsafe) + sum(p < cut for p in safe) / len(safe)

    best = max(map(youden, cuts))
    tied = [cut for cut in cuts if math.isclose(youden(cut), best)]
    return tied[len(tied) // 2]


@dataclass(frozen=True)
class Calibration:
    """A judge's verdicts on labelled pairs, counted. Unsafe is the positive class; invalid verdicts are apart."""

    n: int
    tp: int
    fp: int
    tn: int
    fn: int
    invalid: int


def confusion(labels: Sequence[GuardRow], verdicts: Sequence[Verdict]) -> Calibration:
    """What a judge says of labelled pairs, against their labels."""
    counts = Counter((label.label, verdict.verdict) for label, verdict in pair(labels, verdicts, "verdicts"))
    return Calibration(
        n=counts.total(),
        tp=counts["unsafe", "unsafe"],
        fp=counts["safe", "unsafe"],
        tn=counts["safe", "safe"],
        fn=counts["unsafe", "safe"],
        invalid=sum(count for (_, verdict), count in counts.items() if verdict not in VALID),
    )


def sensitivity_specificity(calibration: Calibration) -> tuple[Rate, Rate]:
    """Sensitivity tp/(tp+fn) and specificity tn/(tn+fp), each with its Wilson interval.

    Invalid verdicts are in neither.
    """

    def as_rate(k: int, n: int) -> Rate:
        return Rate(k, n, k / n if n else math.nan, *wilson(k, n))

    c = calibration
    return as_rate(c.tp, c.tp + c.fn), as_rate(c.tn, c.tn + c.fp)


def corrected_rate(observed: Rate, calibration: Calibration, level: float = 0.95) -> Rate | None:
    """Rogan-Gladen: (p + sp - 1) / (se + sp - 1), clipped to [0, 1], with the delta-method interval.

    The interval carries the uncertainty of the observed rate and of both calibration rates (Lang &
    Reiczigel 2014 without their small-sample pseudo-counts, so it is slightly narrow for perfect
    calibrations: one half is added to each count for the variances). None when the judge is no better than
    chance, since the correction is then undefined; and when the whole interval lies outside [0, 1]: its assumption,
    the same errors here as on the labelled pairs, is then refuted.
    """
    from scipy.stats import norm

    se, sp = sensitivity_specificity(calibration)
    if not se.n or not sp.n or not observed.n or se.value + sp.value <= 1.0:
        return None

    def variance(r: Rate) -> float:
        p = (r.k + 0.5) / (r.n + 1)
        return p * (1 - p) / r.n

    youden = se.value + sp.value - 1
    value = (observed.value + sp.value - 1) / youden
    spread = (
        math.sqrt(variance(observed) + variance(se) * value**2 + variance(sp) * (1 - value) ** 2) / youden
    )
    half = float(norm.ppf(0.5 + level / 2)) * spread
    if value + half <= 0 or value - half >= 1:
        return None  # no rate is that far off: the judge's errors here are not those on the labelled pairs
    clip = [min(1.0, max(0.0, x)) for x in (value, value - half, value + half)]
    return Rate(clip[0] * observed.n, observed.n, *clip)


@dataclass(frozen=True)
class Agreement:
    """Two judges on the same replies: `n` have two valid verdicts, of which the share `agreed` is the same."""

    n: int
    agreed: float
    kappa: float  # Cohen's
    invalid: int  # in either


def agreement(verdicts: Sequence[tuple[str, str]]) -> Agreement:
    """How far two judges agree; a pair holds what each says of one reply."""
    valid = [both for both in verdicts if set(both) <= set(VALID)]
    return Agreement(
        n=len(valid),
        agreed=sum(x == y for x, y in valid) / len(valid) if valid else math.nan,
        kappa=kappa([x for x, _ in valid], [y for _, y in valid]),
        invalid=len(verdicts) - len(valid),
    )
