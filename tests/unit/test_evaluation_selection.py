"""Which point of each grid becomes its method's row, and what is then said of how much it recovers and retains."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_run import KEEP, write_run

from evaluation import readme, results, sections, selection
from evaluation.analysis import Group, analyse
from evaluation.choosing import choose_points, first_of
from evaluation.comparisons import Recovery
from evaluation.literature import literature_table
from evaluation.report import build_report
from evaluation.selection import Candidate
from safemerge.errors import UserError


def test_selection_rule():
    points = [Candidate(0, 0.10, 0.50, 4), Candidate(1, 0.20, 0.68, 3), Candidate(2, 0.20, 0.68, 2)]
    assert selection.choose(points, 0.2, 0.7, keep=KEEP) == selection.Choice(2, pytest.approx(0.65), True)
    assert selection.choose(points, 0.2, 0.7, keep=0.5).index == 0
    assert selection.choose(points, 0.9, 0.7, keep=KEEP).floor == pytest.approx(
        0.68
    )  # nothing gained: fine-tuned minus slack
    nothing = selection.choose(points, 0.2, 1.5, keep=KEEP)
    assert (nothing.index, nothing.met) == (2, False)
    assert selection.choose([Candidate(0, math.nan, 0.9, 1), *points], 0.2, 0.7, keep=KEEP).index == 2


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(0, 9)), min_size=1, max_size=9))
@settings(max_examples=60, deadline=None)
def test_no_other_allowed_point_is_less_harmful(raw):
    points = [Candidate(i, *values) for i, values in enumerate(raw)]
    found = selection.choose(points, 0.3, 0.6, keep=KEEP)
    allowed = [p for p in points if p.utility >= found.floor]
    assert found.met == bool(allowed)
    if allowed:
        assert points[found.index].harm == min(p.harm for p in allowed)


@pytest.mark.parametrize("keep", [0.0, 0.95])
def test_the_share_to_keep_is_the_runs_own(keep, tmp_path):
    run = results.read_run(write_run(tmp_path, n=8, seeds=(0,)))
    run.keep_gain = keep
    assert results.keep_of([run, run]) == keep
    with pytest.raises(UserError, match=r"different selection\.keep_gain .*one --keep"):
        results.keep_of([run, run.model_copy(update={"keep_gain": 0.5})])


def test_a_run_that_does_not_say_what_share_it_kept_is_refused(tmp_path):
    """Any share assumed in its place would select other points than the run reported."""
    path = write_run(tmp_path, n=8, seeds=(0,))
    found = json.loads(path.read_text())
    del found["keep_gain"]
    path.write_text(json.dumps(found))
    with pytest.raises(UserError, match=r"keep_gain: Field required; run `make report`"):
        results.read_run(path)


def test_choice_looks_at_the_development_half_only(tmp_path):
    path = write_run(tmp_path, n=40, seeds=(3,))
    _, [entry] = results.load(path)
    before, _ = choose_points(entry, "dev", KEEP)

    def turned(row):
        return (
            replace(row, outcome=not row.outcome) if row.half == "test" and row.outcome is not None else row
        )

    for point in entry.points:  # turn the test half upside down
        point.scored["directharm"]["guard"] = [turned(row) for row in point.scored["directharm"]["guard"]]
    after, _ = choose_points(entry, "dev", KEEP)
    assert {k: p.label for k, p in before.items()} == {k: p.label for k, p in after.items()}
    chosen, control = before["SafeMERGE (exact merge)"], before["Control: random modules (exact merge)"]
    assert control.spec.merged_modules == chosen.spec.merged_modules
    assert control.spec.alpha == chosen.spec.alpha


def test_every_random_draw_is_a_row_of_its_own_at_the_size_of_the_chosen_point(tmp_path):
    path = write_run(tmp_path, n=20, seeds=(3,), draws=(0, 1))
    _, [entry] = results.load(path)
    chosen, _ = choose_points(entry, "dev", KEEP)
    rows = [name for name, point in chosen.items() if point.method == "random"]
    assert rows == [f"Control: random modules (exact merge, draw {draw})" for draw in (0, 1)]
    assert [chosen[row].spec.draw for row in rows] == [0, 1]
    ours = first_of(chosen, "safemerge").spec
    assert {(chosen[r].spec.merged_modules, chosen[r].spec.alpha) for r in rows} == {
        (ours.merged_modules, ours.alpha)
    }


def test_recovery_is_measured_between_the_aligned_and_the_fine_tuned_model(tmp_path):
    path = write_run(tmp_path, n=60, seeds=(3,))
    _, entries = results.load(path)
    [group] = analyse(entries, keep=KEEP)
    rates = {row.name: row.rates for row in group.headline}
    [ours] = [row for row in group.recovery if row.method == "safemerge"]
    harm, utility = group.first_harm, group.utility
    value = {(m, b): rates[m][b].value for m in rates for b in (harm, utility)}
    aligned, tuned, merged = "Aligned (not fine-tuned)", "Fine-tuned", "SafeMERGE (exact merge)"
    assert ours.lost == pytest.approx(value[tuned, harm] - value[aligned, harm])
    assert ours.recovered == pytest.approx(value[tuned, harm] - value[merged, harm])
    assert ours.gained == pytest.approx(value[tuned, utility] - value[aligned, utility])
    assert ours.retained == pytest.approx(value[merged, utility] - value[aligned, utility])
    text = readme.block(*readme.analysed([path]))
    assert "## Checks" not in text and "## Checks" in readme.block(*readme.analysed([path]), whole=True)
    share = 100 * ours.recovered / ours.lost
    assert f"{merged} recovers {100 * ours.recovered:.0f} ({share:.0f} %)" in text
    assert (
        "Judge `guard` on held-out labelled pairs of harmful prompts: sensitivity 96 % [82, 99] (46/48)"
        in text
    )


@pytest.fixture(scope="module")
def group(tmp_path_factory) -> Group:
    [found] = analyse(results.load(write_run(tmp_path_factory.mktemp("run"), n=8, seeds=(0,)))[1], keep=KEEP)
    return found


def test_the_sentence_on_recovery_says_when_there_was_nothing_to_lose(group):
    row = Recovery(
        seed=0,
        name="SafeMERGE (exact merge)",
        method="safemerge",
        lost=0.4,
        recovered=0.3,
        gained=0.5,
        retained=0.4,
    )
    [line] = sections.recovery_lines(replace(group, recovery=[row, replace(row, method="resta")]))
    assert "added 40 points" in line and "recovers 30 (75 %) and retains 80 % of the 50 points" in line
    [line] = sections.recovery_lines(replace(group, recovery=[replace(row, lost=-0.2)]))
    assert "took away 20 points of harm, so there is nothing to recover" in line and "retains 80 %" in line


@pytest.mark.parametrize("settings", [("abcdef1", "abcdef1"), ("abcdef1", "1234567")])
def test_runs_of_other_settings_are_no_seeds_of_one_another(settings, tmp_path):
    """Another learning rate, say, under the same model, task, data and precision."""
    entries = []
    for seed, its in enumerate(settings):
        path = write_run(tmp_path / str(seed), n=8, seeds=(seed,))
        run = results.read_run(path)
        run.settings = its
        run.write(path)
        entries += results.load(path)[1]
    groups = analyse(entries, keep=KEEP)
    if len(set(settings)) == 1:
        assert [group.seeds for group in groups] == [[0, 1]] and "settings" not in groups[0].title
    else:
        assert [group.seeds for group in groups] == [[0], [1]]
        assert [group.title.split("settings ")[1] for group in groups] == ["abcdef", "123456"]


@pytest.mark.parametrize(("data", "filled"), [("bundled", False), ("hub", True), ("local", True)])
def test_stand_in_data_never_fills_the_papers_table(data, filled, tmp_path):
    run = results.read_run(write_run(tmp_path, n=8, seeds=(0,)))
    run.runs[0].model, run.runs[0].data = "llama3.1-8b", data
    groups = analyse([results.load_entry(run.runs[0], tmp_path)], keep=KEEP)
    ours = [
        row[-1] for row in literature_table(groups).rows if row[:3] == ["llama3.1-8b", "gsm8k", "SafeMERGE"]
    ]
    assert ours and all((cell != "not run here") is filled for cell in ours[:2])


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        (
            "shared",
            "apart, so that cross terms come in. The task and the safety LoRA were trained from one seed",
        ),
        ("apart", "trained from different seeds, so they start from different A. By least squares"),
        (
            "unknown",
            "so that cross terms come in. By least squares, the released merge came here to α = 0.8: ",
        ),
    ],
)
def test_what_is_said_of_the_released_merge_follows_the_seeds_of_the_roles(seeds, words, tmp_path):
    run = results.read_run(write_run(tmp_path, n=8, seeds=(0,)))
    run.runs[0].role_seeds = seeds
    point = next(point for point in run.runs[0].points if point.combine == "exact")
    point.combine = "peft_linear"
    [group] = analyse([results.load_entry(run.runs[0], tmp_path)], keep=KEEP)
    assert words in next(note for note in group.notes if note.startswith("Two arithmetics"))


def test_another_judges_verdicts_never_pass_for_the_primary_ones(tmp_path):
    run = results.read_run(write_run(tmp_path, n=8, seeds=(0,)))
    point = next(point for point in run.runs[0].points if point.method == "finetuned")
    del point.verdicts["directharm"]["guard"]
    entry = results.load_entry(run.runs[0], tmp_path)
    with pytest.raises(UserError, match="finetuned has no verdicts of guard on directharm"):
        analyse([entry], keep=KEEP)


def test_seeds_that_answered_other_prompts_are_refused(tmp_path):
    """Their outcomes would be paired by position."""
    entries = [results.load(write_run(tmp_path / str(seed), n=8, seeds=(seed,)))[1][0] for seed in (0, 1)]
    entries[1].items["directharm"] = entries[1].items["directharm"][::-1]
    with pytest.raises(UserError, match=r"seeds 0 and 1 .* answered other prompts of directharm"):
        analyse(entries, keep=KEEP)


def test_where_nothing_is_selected_all_prompts_are_reported(tmp_path):
    summary = build_report(write_run(tmp_path, n=40, selecting=False), tmp_path / "report")
    (group,) = summary.groups
    text = (summary.folder / "report.md").read_text()
    assert group.prompts == "all prompts" and not group.choices and not group.paper
    assert {row.rates["gsm8k"].n for row in group.headline} == {40}, "and not the half of them"
    assert group.tests and "test half" not in text and "development half" not in text
