"""Harm corrected for the judge's errors: right in the long run, and never surer than what was observed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation import results
from evaluation import statistics as s
from evaluation.analysis import Group, analyse
from evaluation.judge_tables import corrected_table
from evaluation.judges import Calibration, corrected_rate, sensitivity_specificity, unmoved_rate
from evaluation.soundness import CalibrationRow
from tests.unit.synthetic_run import write_run


def measured(tp: int, fn: int, tn: int, fp: int, share: float = 1.0) -> Calibration:
    """A judge's counts; the pairs are worth this share of independent ones."""
    n = tp + fn + tn + fp
    return Calibration(n, tp, fp, tn, fn, 0, share * (tp + fn), share * (tn + fp))


def test_rogan_gladen_recovers_the_true_rate():
    counts = measured(900, 100, 950, 50)
    truth = 0.3
    observed = round(1000 * (truth * 0.9 + (1 - truth) * 0.05))
    found = corrected_rate(s.rate_of(observed, 1000, 1000), counts)
    assert found.value == pytest.approx(truth, abs=1e-9)
    assert 0 <= found.low < truth < found.high <= 1
    sensitivity, specificity = sensitivity_specificity(counts)
    assert (sensitivity.value, specificity.value) == (0.9, 0.95)


def test_no_correction_where_its_assumption_is_refuted():
    """1 of 20 by a judge of specificity .67 would be far below 0; clipped, its interval said 0 for certain."""
    counts = measured(83, 13, 88, 44)
    assert corrected_rate(s.rate([True] + [False] * 19), counts) is None
    assert corrected_rate(s.rate([True] * 60), counts) is None
    found = corrected_rate(s.rate([True] * 10 + [False] * 10), counts)
    assert found is not None and found.low < found.value < found.high


def test_no_correction_by_a_judge_no_better_than_chance():
    counts = measured(5, 5, 5, 5)
    assert corrected_rate(s.rate_of(5, 10, 10), counts) is None


@pytest.mark.slow
def test_rogan_gladen_interval_covers():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        tp, tn = rng.binomial(60, 0.92), rng.binomial(60, 0.9)
        k = rng.binomial(150, 0.25 * 0.92 + 0.75 * 0.1)
        counts = measured(int(tp), int(60 - tp), int(tn), int(60 - tn))
        found = corrected_rate(s.rate([True] * k + [False] * (150 - k)), counts)
        hits += found is not None and found.low <= 0.25 <= found.high
    assert hits / 400 > 0.92


@given(
    st.integers(0, 100), st.integers(5, 60), st.integers(0, 20), st.integers(5, 60), st.integers(0, 20),
    st.floats(0.3, 1.0),
)  # fmt: skip
def test_no_corrected_interval_is_narrower_than_the_observed_one(
    k: int, tp: int, fn: int, tn: int, fp: int, share: float
) -> None:
    """2 of 100 by a judge of .96 and .98 had an interval from 0 to 5.5 %, where Wilson's goes from .6 to 7 %."""
    observed = s.rate_of(k, 100, 100)
    found = corrected_rate(observed, measured(tp, fn, tn, fp, share))
    if found is None:
        return
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low >= observed.high - observed.low - 1e-9


def test_pairs_of_few_prompts_make_the_corrected_interval_wider() -> None:
    observed = s.rate_of(40, 100, 100)
    alone, alike = (corrected_rate(observed, measured(70, 10, 90, 10, share)) for share in (1.0, 0.5))
    assert alone and alike and alone.value == alike.value
    assert alike.low < alone.low - 0.005 and alone.high + 0.005 < alike.high


def test_the_interval_over_seeds_is_carried_on() -> None:
    """Seeds that differ widely make the observed interval wide, and the corrected one at least as wide."""
    observed = s.Rate(45.7, 100, 0.457, 0.145, 0.768)
    found = corrected_rate(observed, measured(49, 2, 61, 1))
    assert found and found.high - found.low >= 0.768 - 0.145


def test_which_way_a_rate_moves() -> None:
    counts = measured(70, 10, 90, 10)  # .125 missed, .1 accused
    turn = unmoved_rate(counts)
    assert turn == pytest.approx(0.1 / 0.225)
    for observed in (0.2, turn, 0.7):
        found = corrected_rate(s.Rate(100 * observed, 100, observed, observed - 0.1, observed + 0.1), counts)
        assert found and np.sign(round(found.value - observed, 9)) == np.sign(round(observed - turn, 9))
    assert np.isnan(unmoved_rate(measured(5, 0, 5, 0)))


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Group:
    folder = tmp_path_factory.mktemp("run")
    [found] = analyse(results.load(write_run(folder, n=40, seeds=(0, 1, 2)))[1], keep=0.9)
    return found


def test_in_a_report_over_seeds_no_correction_makes_a_rate_surer(group: Group) -> None:
    """The intervals of the seeds were averaged, which left out how far seeds differ."""
    corrected = [(row.rates[group.first_harm], row.harm_corrected) for row in group.headline]
    assert sum(fixed is not None for _, fixed in corrected) >= 5
    for observed, fixed in corrected:
        if fixed is not None:
            assert fixed.high - fixed.low >= observed.high - observed.low - 1e-9


def test_the_report_says_which_way_each_rate_moves(group: Group) -> None:
    table = corrected_table(group)
    turn = unmoved_rate(group.calibration[0].counts)
    assert f"above {100 * turn:.1f} % up and those below it down" in table.note
    place = table.columns.index("Moved by, points")
    for row, cells in zip(group.headline, table.rows, strict=True):
        if row.harm_corrected is None:
            assert cells[place] == "–"
        else:
            up = row.rates[group.first_harm].value > turn
            assert cells[place].startswith("+" if up else "-"), cells


def test_a_judge_without_an_error_or_without_merit_is_said_to_move_nothing(group: Group) -> None:
    def note(counts: Calibration) -> str:
        row = CalibrationRow("guard", True, 0, counts, *sensitivity_specificity(counts))
        return corrected_table(dataclasses.replace(group, calibration=[row])).note

    assert "no rate moves" in note(measured(9, 0, 9, 0))
    assert "nothing is corrected" in note(measured(3, 6, 3, 6))
    assert "nothing is corrected" in note(measured(0, 0, 0, 0))
