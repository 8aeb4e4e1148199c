"""The claims ledger: what it may say, when a claim is decided, and never below the power floor."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import CONF, configured, points_of, write_run

from evaluation import claims, deciding, paired, statistics
from evaluation.claim_tables import claims_table, outcome_text
from evaluation.deciding import ClaimRow, decide
from evaluation.ledger import LEDGER, Contrast, Direction, read_claims
from evaluation.readme import analysed
from evaluation.report import build_report
from safemerge.errors import UserError
from safemerge.selection import Rule

NAMES = [path.stem for path in (CONF / "method").glob("*.yaml")]
KNOBS: dict[str, Any] = {"tau": "q0.5", "alpha": 0.8, "like": "q0.5", "rank": 16}


def found(difference: float, half: float, detectable: float) -> paired.Difference:
    return paired.Difference(100, difference, difference - half, difference + half, [difference], detectable)


@pytest.mark.parametrize(
    ("difference", "half", "detectable", "direction", "outcome"),
    [
        (-0.20, 0.08, 0.12, "less", "reproduced"),
        (-0.03, 0.02, 0.04, "less", "inconclusive"),  # the sign, but not the size
        (-0.01, 0.03, 0.04, "less", "not reproduced"),
        (-0.01, 0.03, 0.09, "less", "inconclusive"),  # the same, below the power floor
        (-0.01, 0.03, math.nan, "less", "inconclusive"),
        (0.20, 0.08, 0.12, "less", "not reproduced"),  # the opposite, as large as can be shown
        (0.10, 0.08, 0.12, "less", "inconclusive"),
        (0.20, 0.08, 0.12, "more", "reproduced"),
        (0.00, 0.04, 0.06, "no_less", "reproduced"),
        (-0.04, 0.04, 0.06, "no_less", "inconclusive"),
        (-0.30, 0.10, 0.14, "no_less", "not reproduced"),
        (-0.30, 0.10, 0.40, "no_less", "inconclusive"),
        (0.30, 0.10, 0.14, "no_more", "not reproduced"),
    ],
)
def test_a_claim_is_decided_by_the_interval_and_by_what_could_be_shown(
    difference: float, half: float, detectable: float, direction: Direction, outcome: str
) -> None:
    assert decide(found(difference, half, detectable), direction, 0.05)[0] == outcome


@given(
    st.floats(-1, 1),
    st.floats(0.001, 1),
    st.floats(0.001, 1) | st.just(math.nan),
    st.sampled_from(get_args(Direction)),
    st.floats(0.01, 0.5),
)
def test_never_not_reproduced_below_the_power_floor(
    difference: float, half: float, detectable: float, direction: Direction, least: float
) -> None:
    """It stands on an effect of the size that could be shown: the one that counts, or the opposite that was seen."""
    outcome, _ = decide(found(difference, half, detectable), direction, least)
    if outcome == "not reproduced":
        assert detectable <= max(least, abs(difference))
    better = difference if direction in ("more", "no_less") else -difference
    if outcome == "reproduced":
        assert better > (-least if direction.startswith("no_") else 0)


def test_one_seed_and_one_draw_are_the_paired_comparison() -> None:
    rng = random.Random(1)
    a = [rng.choice([True, False, None]) for _ in range(80)]
    b = [rng.choice([True, False]) for _ in range(80)]
    ours, theirs = paired.of_outcomes([[paired.gaps(a, b)]]), statistics.compare(a, b)
    assert ours is not None and ours.n == theirs.n
    assert (ours.difference, ours.low, ours.high) == pytest.approx(
        (theirs.difference, theirs.low, theirs.high)
    )


def simulated(rng: random.Random, seeds: int, n: int, effect: float, noise: float) -> list[list[list[float]]]:
    """Gaps per prompt: `noise` of the prompts change either way, `effect` more upwards; seeds differ by a little."""
    its = []
    for _ in range(seeds):
        up = noise + effect + (rng.gauss(0, 0.02) if seeds > 1 else 0.0)
        its.append([[1.0 if (x := rng.random()) < up else -1.0 if x < up + noise else 0.0 for _ in range(n)]])
    return its


@pytest.mark.parametrize("seeds", [1, 3])
def test_what_is_called_detectable_is_shown_four_times_in_five(seeds: int) -> None:
    """The statement of an inconclusive outcome, on fresh data of the effect that it names."""
    rng = random.Random(seeds)
    first = [paired.of_outcomes(simulated(rng, seeds, 100, 0.0, 0.08)) for _ in range(25)]
    shown = sorted(its.detectable for its in first if its)[12]
    again = [paired.of_outcomes(simulated(rng, seeds, 100, shown, 0.08)) for _ in range(120)]
    power = sum(its.low > 0 for its in again if its) / 120
    assert power > 0.7, (shown, power)
    smaller = [paired.of_outcomes(simulated(rng, seeds, 100, shown / 3, 0.08)) for _ in range(120)]
    assert sum(its.low > 0 for its in smaller if its) / 120 < 0.5


def test_the_ledger_names_what_there_is() -> None:
    """A misspelt method would leave a claim not decidable for ever, and nobody would notice."""
    methods = {point.method for name in NAMES for point in points_of(name, **_knobs(name))}
    for claim in read_claims():
        assert claim.predicted, claim.id
        assert (claim.by == "paper") == bool(claim.grade) == (claim.where is not None), claim.id
        assert claim.where is None or (CONF / "model" / f"{claim.where.model}.yaml").exists()
        if isinstance(its := claim.decided_by, Contrast):
            assert its.benchmark is None or configured("benchmark", its.benchmark)["role"] == its.role
            for row in (its.row, its.minus):
                assert row.method is None or row.method in methods, (claim.id, row.method)
                assert row.rule is None or row.rule in get_args(Rule), (claim.id, row.rule)


def _knobs(name: str) -> dict[str, Any]:
    """What the files of conf/method take from one another, or leave to conf/sweep."""
    its = configured("method", name)
    free = {key: value for key, value in KNOBS.items() if key in its and not isinstance(its[key], float)}
    if its.get("k") is not None:
        free.pop("tau", None)
    return free


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"decided_by": {"role": "harm"}}, "decided_by.difference.row: Field required"),
        ({"decided_by": {"kind": "luck"}}, "decided_by"),
        ({"says": None}, "says"),
        ({"stars": 5}, "stars"),
    ],
)
def test_a_ledger_that_cannot_be_read_is_one_line(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    first = yaml.safe_load(LEDGER.read_text())[0]
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump([{**first, **change}]))
    with pytest.raises(UserError, match=said) as error:
        read_claims(path)
    assert "\n" not in str(error.value)
    path.write_text(yaml.safe_dump([first, first]))
    read_claims.cache_clear()
    with pytest.raises(UserError, match="twice"):
        read_claims(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), n=120, seeds=(0, 1, 2), controls=("random_k", "null_k"))


def changed(run: Path, name: str, entry: dict[str, Any], point: dict[str, Any] | None = None) -> Path:
    """A run.json beside the other one, with these fields of its entries, and of the points of SafeMERGE."""
    its = json.loads(run.read_text())
    for record in its["runs"]:
        record.update(entry)
        for spec in record["points"]:
            if spec["method"] == "safemerge":
                spec.update(point or {})
    path = run.parent / f"{name}.json"
    path.write_text(json.dumps(its))
    return path


def rows_of(path: Path) -> dict[str, ClaimRow]:
    return {row.id: row for row in analysed([path])[1][0].claims}


def test_what_a_run_says_of_the_claims(run: Path) -> None:
    rows = rows_of(run)
    assert rows["erosion"].decided.outcome == "reproduced"
    assert rows["recovery-released"].decided.outcome == "not decidable"  # the run has the exact merge alone
    assert rows["recovery-exact"].decided.found and rows["criterion-null"].decided.found
    assert rows["criterion-highest"].decided.outcome == "not decidable"  # no such rows
    its = rows["criterion-random"].decided.found
    assert its and its.seeds == 3 and its.low <= its.difference <= its.high
    assert {row.decided.outcome for row in rows.values() if row.by == "paper"} == {"not tested here"}
    assert rows["selection-stable"].decided.outcome in (
        "inconclusive",
        "not reproduced",
    )  # rho is drawn apart


def test_the_claims_of_the_paper_are_tested_on_its_models_and_data_alone(run: Path) -> None:
    there = {"model": "llama3.1-8b"}
    rows = rows_of(changed(run, "llama", there, {"combine": "peft_linear"}))
    assert rows["llama31-erosion"].decided.outcome == "reproduced"
    assert rows["llama31-directharm"].decided.found
    assert rows["llama31-hexphi"].decided.outcome == "not decidable"
    assert rows["llama31-pubmedqa-directharm"].decided.outcome == "not tested here"  # the task is another
    assert rows["qwen2-directharm"].decided.outcome == "not tested here"
    stand_in = rows_of(changed(run, "bundled", {**there, "data": "bundled"}, {"combine": "peft_linear"}))
    assert {row.decided.outcome for row in stand_in.values() if row.by == "paper"} == {"not tested here"}
    assert stand_in["erosion"].decided.outcome == "reproduced" and stand_in["erosion"].stand_in


def test_a_count_of_modules_is_compared_with_the_published_one(run: Path) -> None:
    there = {"model": "qwen2-7b"}
    half = {"tau_setting": 0.7, "merged_modules": 28, "modules": 56}
    assert rows_of(changed(run, "half", there, half))["qwen2-merged"].decided.outcome == "reproduced"
    few = {**half, "merged_modules": 3}
    assert rows_of(changed(run, "few", there, few))["qwen2-merged"].decided.outcome == "not reproduced"
    assert rows_of(changed(run, "none", there))["qwen2-merged"].decided.outcome == "not decidable"


def test_equal_selections_are_stable_and_one_seed_has_none_to_compare(run: Path, tmp_path: Path) -> None:
    its = json.loads(run.read_text())
    first = its["runs"][0]
    its["runs"] = [{**first, "seed": seed} for seed in range(3)]
    same = run.parent / "same.json"
    same.write_text(json.dumps(its))
    rows = rows_of(same)
    assert rows["selection-stable"].decided.outcome == "reproduced"
    assert rows["selection-stable-beyond-null"].decided.outcome == "reproduced"
    one = rows_of(write_run(tmp_path / "one", seeds=(0,), n=8))
    assert one["selection-stable"].decided.outcome == "not decidable"


def test_another_judge_that_says_the_opposite_is_seen(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rows_of(run)["judges"].decided.outcome in ("inconclusive", "reproduced")
    real = deciding.of_contrast

    def upside_down(contrast: Contrast, seeds: Any, reading: Any = deciding.AS_REPORTED) -> deciding.Decided:
        other = {"more": "less", "less": "more"}.get(contrast.direction, contrast.direction)
        swapped = contrast.model_copy(update={"direction": other}) if reading.judge == "refusal" else contrast
        return real(swapped, seeds, reading)

    monkeypatch.setattr(deciding, "of_contrast", upside_down)
    assert rows_of(run)["judges"].decided.outcome == "not reproduced"


def test_the_command_the_report_and_the_readme_have_the_tables(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "deep" / "claims.md"
    assert claims.main(["--run", str(run), "--output", str(page)]) == 0
    printed, text = capsys.readouterr().out, page.read_text()
    assert "erosion: reproduced" in printed and "could show no less than" in printed
    assert "llama3.1-8b; this run is of smollm2-135m" in text and "-19.5 points" in text
    report = build_report(run, tmp_path / "report").folder
    for name in ("report.md", "report.html"):
        assert "Claims of the paper" in (report / name).read_text()
    assert '"criterion-null"' in (report / "analysis.json").read_text()
    target = tmp_path / "README.md"
    target.write_text("{}\nold\n{}\n".format(*claims.MARKERS))
    assert claims.main(["--run", str(run), "--page", str(target)]) == 0
    short = target.read_text()
    assert "| Fine-tuning on harmless data erodes safety." in short.replace("**", "")
    assert "\nold\n" not in short and "llama3.1-8b" not in short
    assert "claims of the paper, which are about other models, 0 are tested" in short
    target.write_text(claims.MARKERS[0])
    assert claims.main(["--run", str(run), "--page", str(target)]) == 2
    assert claims.MARKERS[1] in capsys.readouterr().err


def test_without_harm_nothing_is_recovered_and_without_a_gain_nothing_is_retained(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {claim.id: claim.given for claim in deciding.read_claims() if claim.given}
    assert {"recovery-released", "criterion-random", "utility"} <= set(given)
    before, right = rows_of(run), deciding.of_contrast
    assert (
        before["gain"].decided.outcome == "reproduced"
        and before["utility"].decided.outcome != "not decidable"
    )

    def nothing_gained(its: Contrast, *rest: Any) -> deciding.Decided:
        gained = its.row.method == "finetuned" and its.role == "utility"
        return deciding.Decided("inconclusive", "") if gained else right(its, *rest)

    monkeypatch.setattr(deciding, "of_contrast", nothing_gained)
    after = {name: row.decided for name, row in rows_of(run).items()}
    assert (
        after["utility"].outcome == "not decidable" and "Fine-tuning gains utility" in after["utility"].reason
    )
    assert after["recovery-released"] == before["recovery-released"].decided


def test_stand_in_data_and_one_seed_are_said_of_an_outcome(run: Path) -> None:
    group = analysed([changed(run, "stand-in", {"data": "bundled"})])[1][0]
    erosion = next(row for row in group.claims if row.id == "erosion")
    assert "(stand-in data)" in outcome_text(erosion, 3)
    found: Any = erosion.decided.found
    one = replace(erosion, decided=replace(erosion.decided, found=replace(found, values=found.values[:1])))
    assert "(stand-in data, one seed)" in outcome_text(one, 3), "of three seeds, one had both rows"
    assert "none of this is a replication" in claims_table(group, "ours").note


def test_what_cannot_be_read_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert claims.main(["--run", str(tmp_path / "run.json")]) == 2
    assert capsys.readouterr().err.startswith("error: cannot read")
