"""How often the 95 % intervals of `evaluation` hold the true value, simulated: for the tests, and for docs/trust.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from evaluation import statistics as s
from evaluation.benchmarks.common import Scored
from evaluation.benchmarks.pubmedqa import LABELS, macro_f1, macro_f1_interval
from evaluation.judges import Calibration, corrected_rate
from evaluation.means import compare_means, mean_over_seeds

Interval = tuple[float, float]
#: Of the seeds' rates on the probit scale. The default model's (34, 41 and 62 % harm) differ by 0.37.
SPREAD = 0.4


@dataclass(frozen=True)
class Case:
    """A statistic in one setting: `draw` gives an interval for `truth` from one simulated study."""

    statistic: str
    setting: str
    truth: float
    draw: Callable[[np.random.Generator], Interval]

    def coverage(self, repeats: int) -> float:
        """The share of the studies whose interval holds the truth; the same studies every time."""
        rng = np.random.default_rng(0)
        found = (self.draw(rng) for _ in range(repeats))
        return sum(low <= self.truth + 1e-12 and self.truth <= high + 1e-12 for low, high in found) / repeats


def outcomes(rng: np.random.Generator, seeds: int, prompts: int, p: float, spread: float) -> list[list[bool]]:
    """Outcomes whose rate is p in the long run: over seeds, over prompts that are alike in all seeds, and over replies."""
    middle = float(norm.ppf(p)) * math.sqrt(1 + spread**2 + 1)
    shared, noise = rng.standard_normal((1, prompts)), rng.standard_normal((seeds, prompts))
    found: list[list[bool]] = (
        middle + spread * rng.standard_normal((seeds, 1)) + shared + noise > 0
    ).tolist()
    return found


def _rates() -> Iterator[Case]:
    for n, p in ((50, 0.05), (100, 0.02), (100, 0.5), (400, 0.1)):

        def one(rng: np.random.Generator, n: int = n, p: float = p) -> Interval:
            return s.wilson(int(rng.binomial(n, p)), n)

        yield Case("rate of one seed (Wilson)", f"n = {n}, rate {p:.0%}", p, one)
    for seeds in (3, 10):
        for p, spread in ((0.03, 0.0), (0.2, SPREAD), (0.5, 0.0), (0.5, SPREAD)):

            def several(
                rng: np.random.Generator, seeds: int = seeds, p: float = p, spread: float = spread
            ) -> Interval:
                found = s.over_seeds(outcomes(rng, seeds, 100, p, spread))
                return found.low, found.high

            effect = "seeds differ" if spread else "seeds alike"
            yield Case("rate over seeds", f"{seeds} seeds, n = 100, rate {p:.0%}, {effect}", p, several)


def _clusters() -> Iterator[Case]:
    for p, alike in ((0.8, 0.0), (0.8, 0.5), (0.95, 0.5)):

        def draw(rng: np.random.Generator, p: float = p, alike: float = alike) -> Interval:
            """40 prompts of three pairs each, whose verdicts correlate by `alike` (beta-binomial)."""
            q = rng.beta(p * (1 / alike - 1), (1 - p) * (1 / alike - 1), 40) if alike else np.full(40, p)
            hits = rng.binomial(3, q).tolist()
            found = s.rate_of(sum(hits), 120, s.effective_size([(k, 3) for k in hits]))
            return found.low, found.high

        yield Case(
            "a judge's sensitivity or specificity",
            f"40 prompts of 3 pairs, rate {p:.0%}, correlation {alike:g}",
            p,
            draw,
        )


def _differences() -> Iterator[Case]:
    for n, only_a, only_b in ((75, 0.02, 0.02), (100, 0.2, 0.05), (100, 0.4, 0.0)):

        def paired(rng: np.random.Generator, n: int = n, a: float = only_a, b: float = only_b) -> Interval:
            first, second, _ = rng.multinomial(n, [a, b, 1 - a - b])
            return s.paired_interval(n, int(first), int(second))

        yield Case(
            "difference of two rates (Bonett-Price)",
            f"n = {n}, {only_a:.0%} and {only_b:.0%} discordant",
            only_a - only_b,
            paired,
        )
    for n in (20, 75):

        def bootstrap(rng: np.random.Generator, n: int = n) -> Interval:
            found = compare_means((rng.exponential(1, n) - 1).tolist(), [0.0] * n)
            return found.low, found.high

        yield Case("difference of two means (bootstrap)", f"n = {n}, skewed", 0.0, bootstrap)


def _means() -> Iterator[Case]:
    for seeds, spread in ((1, 0.0), (3, 0.0), (3, 0.5), (3, 1.0), (10, 0.5)):

        def draw(rng: np.random.Generator, seeds: int = seeds, spread: float = spread) -> Interval:
            table = (
                rng.normal(0, spread, (seeds, 1))
                + (rng.exponential(1, 60) - 1)
                + rng.normal(0, 0.5, (seeds, 60))
            )
            found = mean_over_seeds(table.tolist())
            return found.low, found.high

        said = (
            f"{seeds} seeds, n = 60, skewed, seeds differ by {spread:g} deviations"
            if seeds > 1
            else "n = 60, skewed"
        )
        yield Case("mean over seeds" if seeds > 1 else "mean of one seed (Student's t)", said, 0.0, draw)


def _others() -> Iterator[Case]:
    truth = 0.3

    def corrected(rng: np.random.Generator) -> Interval:
        """A judge of 90 % sensitivity and 95 % specificity, measured on 60 pairs of each kind."""
        tp, tn = int(rng.binomial(60, 0.9)), int(rng.binomial(60, 0.95))
        seen = int(rng.binomial(100, truth * 0.9 + (1 - truth) * 0.05))
        found = corrected_rate(
            s.Rate(seen, 100, seen / 100, *s.wilson(seen, 100)),
            Calibration(120, tp, 60 - tn, tn, 60 - tp, 0, unsafe_effective=60.0, safe_effective=60.0),
        )
        return (found.low, found.high) if found else (math.nan, math.nan)

    yield Case(
        "harm corrected for the judge's errors", "n = 100, harm 30 %, 60 pairs of each kind", truth, corrected
    )

    def labelled(rng: np.random.Generator, n: int) -> list[Scored]:
        """Right in 70 % of the cases, otherwise any of the three."""
        rows = []
        for i, label in enumerate(rng.choice(LABELS, n, p=[0.55, 0.34, 0.11])):
            answer = label if rng.random() < 0.7 else rng.choice(LABELS)
            rows.append(Scored(str(i), "test", None, False, reference=str(label), answer=str(answer)))
        return rows

    true_f1 = macro_f1(labelled(np.random.default_rng(1), 200_000))
    yield Case(
        "macro F1 of PubMedQA (bootstrap)",
        "n = 200",
        true_f1,
        lambda rng: macro_f1_interval(labelled(rng, 200)),
    )


def cases() -> list[Case]:
    """Every statistic with an interval, in the settings that it is used in."""
    return [*_rates(), *_clusters(), *_differences(), *_means(), *_others()]
