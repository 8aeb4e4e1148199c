"""Methods as points, thresholds as numbers, selections as module names."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safemerge import controls, methods
from safemerge.errors import UserError
from safemerge.methods import Selection, resolve_tau, select
from safemerge.table import ModuleRow, kind_of, layer_of, module_order, read_table, write_table


def row(module: str, rho: float, *flags: str) -> ModuleRow:
    return ModuleRow(module, layer_of(module), kind_of(module), rho, 1.0, 1.0, 0.5, flags)


def rows_of(rhos: list[float]) -> list[ModuleRow]:
    kinds = ("q_proj", "v_proj")
    return [row(f"model.layers.{i // 2}.self_attn.{kinds[i % 2]}", rho) for i, rho in enumerate(rhos)]


ROWS = rows_of([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
tables = st.lists(st.floats(0, 1), min_size=1, max_size=40).map(rows_of)


@given(tables)
def test_tau_zero_selects_nothing_and_above_one_everything(rows: list[ModuleRow]) -> None:
    assert select(rows, Selection("below", tau=0.0)) == ()
    assert select(rows, Selection("below", tau=1.0000001)) == tuple(sorted(row.module for row in rows))


@given(tables, st.floats(0, 2), st.floats(0, 2))
def test_selection_grows_with_tau(rows: list[ModuleRow], one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert set(select(rows, Selection("below", tau=low))) <= set(select(rows, Selection("below", tau=high)))


@given(st.sets(st.floats(0, 1), min_size=2, max_size=40))
def test_quantiles_take_their_share(rhos: set[float]) -> None:
    rows = rows_of(sorted(rhos))
    assert len(select(rows, Selection("below", tau="q0.5"))) == (len(rows) + 1) // 2 - len(rows) % 2
    assert select(rows, Selection("below", tau="q0")) == ()
    assert len(select(rows, Selection("below", tau="q1"))) == len(rows) - 1


def test_tau_is_strict_and_quantiles_leave_degenerate_modules_out() -> None:
    assert len(select(ROWS, Selection("below", tau=0.4))) == 3
    odd = [*ROWS, row("model.layers.9.self_attn.q_proj", 0.0, "zero_v")]
    assert resolve_tau("q0.5", odd) == resolve_tau("q0.5", [row.rho for row in ROWS]) == pytest.approx(0.45)
    assert "model.layers.9.self_attn.q_proj" in select(odd, Selection("below", tau=0.1))


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection("none"), []),
        (Selection("all"), list(range(8))),
        (Selection("lowest", k=3), [0, 1, 2]),
        (Selection("highest", k=0.25), [6, 7]),
        (Selection("highest", tau="q0.5"), [4, 5, 6, 7]),
        (Selection("kinds", names=("v_proj",)), [1, 3, 5, 7]),
        (Selection("layers", names=("0", "2-3")), [0, 1, 4, 5, 6, 7]),
    ],
)
def test_rules(selection: Selection, expected: list[int]) -> None:
    assert select(ROWS, selection) == tuple(sorted(ROWS[i].module for i in expected))


def tied(*flags: str) -> list[ModuleRow]:
    """Rho of .3 up to what rounding to 5 decimals hides, .5 twice, and a module that alignment may not have changed."""
    rows = rows_of([0.300004, 0.1, 0.5, 0.2, 0.5])
    return [*rows, row("model.layers.9.self_attn.q_proj", 0.0, *flags)]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection("at_most", tau=0.3), [0, 1, 3]),  # rounded, and with the threshold itself
        (Selection("at_most", tau=0.299), [1, 3]),
        (Selection("at_most", tau="q0.5"), [0, 1, 3]),  # the middle one of five, as it was rounded
        (Selection("at_most", tau="q1"), [0, 1, 2, 3, 4]),
        (Selection("lowest_ties", k=2), [1, 3]),
        (Selection("lowest_ties", k=4), [0, 1, 2, 3, 4]),  # a tie with the fourth
        (Selection("lowest_ties", k=6), [0, 1, 2, 3, 4]),
        (Selection("lowest_ties", k=0.5), [0, 1, 3]),
        (Selection("lowest_ties", k=0), []),
    ],
)
def test_safelora_takes_ties_and_leaves_out_what_alignment_did_not_change(
    selection: Selection, expected: list[int]
) -> None:
    """IBM/SafeLoRA, model.py: numpy.round(cos, 5) <= threshold, the k-th smallest in number mode; NaN where V = 0."""
    rows = tied("zero_v")
    assert select(rows, selection) == tuple(sorted(rows[i].module for i in expected))


def test_an_update_that_is_zero_has_rho_zero_for_safelora_too() -> None:
    rows = tied("zero_update")
    assert select(rows, Selection("lowest_ties", k=1)) == (rows[5].module,)


def test_safemerge_stays_strict_and_unrounded() -> None:
    rows = tied("zero_v")
    found = select(rows, methods.safemerge(tau=0.3, alpha=0.5)[0].selection)
    assert found == tuple(sorted(rows[i].module for i in (1, 3, 5)))
    assert [p.selection.rule for p in methods.safelora(tau=0.3) + methods.safelora(k=3)] == [
        "at_most",
        "lowest_ties",
    ]


def test_random_is_seeded_sized_and_free_of_row_order() -> None:
    chosen = select(ROWS, Selection("random", tau="q0.5", seed=1))
    assert len(chosen) == 4
    assert chosen == select(ROWS[::-1], Selection("random", tau="q0.5", seed=1))
    assert len({select(ROWS, Selection("random", k=4, seed=seed)) for seed in range(10)}) > 5


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection("lowest", k=9), "k=9 is more than the adapter's 8"),
        (Selection("kinds", names=("x_proj",)), "no kind x_proj; it has q_proj, v_proj"),
        (Selection("layers", names=("3-5",)), "no layer 4, 5"),
        (Selection("lowest_ties", k=9), "k=9 is more than the adapter's 8"),
        (Selection("random"), "needs tau or k"),
        (Selection("at_most"), "at_most needs tau"),
        (Selection("lowest_ties"), "lowest_ties needs k"),
    ],
)
def test_impossible_selections_are_refused(selection: Selection, message: str) -> None:
    with pytest.raises(UserError, match=message):
        select(ROWS, selection)


def test_grids_span_lists_and_labels_are_unique() -> None:
    points = methods.safemerge(tau=[0.3, "q0.50"], alpha=[0.7, 0.8, 1], combine="ties", density=0.5)
    assert [(p.tau, p.alpha) for p in points] == [(t, a) for t in (0.3, "q0.5") for a in (0.7, 0.8, 1.0)]
    everything = [
        *points,
        *methods.safemerge(tau=0.3, alpha=0.7),
        *methods.aligned(),
        *methods.finetuned(),
        *methods.safeinstruct(),
        *methods.safelora(tau=[0.3, 0.35]),
        *methods.safelora(k=[3, 0.5]),
        *methods.safelora(tau=[0.3, 0.35], projector="orthogonal", energy=[0.9, 1]),
        *methods.resta(gamma=[0.5, 1]),
        *methods.resta(gamma=0.5, dare_density=0.3),
        *methods.full(alpha=0.7),
        *methods.scale(alpha=0.7),
        *controls.random_k(k=4, alpha=0.7, seed=[0, 1]),
        *controls.ranked_k(by="highest", like="q0.5", alpha=0.7),
        *controls.by_kind(kinds=["q_proj", "v_proj"], alpha=0.7),
        *controls.by_layer(layers=[0, "2-3"], alpha=0.7),
    ]
    labels = [point.label for point in everything]
    assert len(set(labels)) == len(labels)
    assert points[0].label == "safemerge tau=0.3 alpha=0.7 combine=ties density=0.5"
    assert {point.method for point in everything} >= {"random", "highest", "full", "safeinstruct"}
    assert {point.method for point in everything} >= {"safelora", "safelora_orthogonal"}


def test_hydra_lists_are_grids_too() -> None:
    from omegaconf import OmegaConf

    config = OmegaConf.create({"tau": [0.3, "q0.5"], "alpha": 0.7})
    assert [point.tau_setting for point in methods.safemerge(tau=config.tau, alpha=config.alpha)] == [
        "0.3",
        "q0.5",
    ]


def test_where_points_start_from() -> None:
    assert [p.adapter for p in methods.aligned() + methods.finetuned() + methods.safeinstruct()] == [
        "none",
        "task",
        "safeinstruct",
    ]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: methods.safemerge(tau=-0.1, alpha=0.5), "tau=-0.1 is neither"),
        (lambda: methods.safemerge(tau="q1.5", alpha=0.5), "tau=q1.5: quantile"),
        (lambda: methods.safemerge(tau="high", alpha=0.5), "tau=high is neither"),
        (lambda: methods.safemerge(tau=0.5, alpha=1.2), r"alpha=1.2 is not a number in \[0, 1\]"),
        (lambda: methods.safemerge(tau=0.5, alpha=[]), "empty list"),
        (lambda: methods.safemerge(tau=0.5, alpha=0.5, combine="slerp"), "combine=slerp is unknown"),
        (lambda: methods.safemerge(tau=0.5, alpha=0.5, combine="ties"), "combine=ties needs density"),
        (lambda: methods.safemerge(tau=0.5, alpha=0.5, density=0.5), "no use for density"),
        (lambda: methods.safemerge(tau=0.5, alpha=0.5, rank=0), "rank=0"),
        (lambda: methods.full(alpha="half"), "alpha=half"),
        (lambda: methods.resta(gamma=-1), "gamma=-1 is not a number at least 0"),
        (lambda: methods.resta(gamma=1, dare_density=0), "dare_density=0"),
        (lambda: methods.safelora(), "either tau or k"),
        (lambda: methods.safelora(tau=0.5, k=3), "either tau or k"),
        (
            lambda: methods.safelora(k=3, projector="none"),
            "projector=none is unknown; use one of official, o",
        ),
        (lambda: methods.safelora(k=3, energy=0.9), "projector=official has no use for energy=0.9"),
        (lambda: methods.safelora(k=3, projector="orthogonal", energy=0), "energy=0 would drop all of V"),
        (lambda: methods.safelora(k=3, projector="orthogonal", energy=2), "energy=2 is not a number in"),
        (lambda: controls.random_k(alpha=0.5), "random_k needs either k or like"),
        (lambda: controls.ranked_k(by="highest", alpha=0.5, k=1.5), "k .*=1.5"),
        (lambda: controls.by_layer(layers="a-b", alpha=0.5), "layers=a-b"),
        (lambda: methods.scale(alpha=float("nan")), "alpha=nan"),
    ],
)
def test_bad_knobs_are_refused(build: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build()


def test_a_quantile_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="no module has a defined rho"):
        resolve_tau("q0.5", [])


def test_the_table_survives_its_file(tmp_path: Any) -> None:
    rows = [*ROWS, row("lm_head", 1 / 3, "zero_v", "zero_update")]
    write_table(tmp_path / "similarity.csv", rows)
    assert read_table(tmp_path / "similarity.csv") == rows
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    for name, message in (("other.csv", "is not a similarity table"), ("none.csv", "no similarity table")):
        with pytest.raises(UserError, match=message):
            read_table(tmp_path / name)


def test_modules_sort_in_execution_order() -> None:
    names = [
        "model.layers.10.self_attn.q_proj",
        "model.layers.2.mlp.up_proj",
        "lm_head",
        "model.layers.2.self_attn.v_proj",
    ]
    assert sorted(names, key=module_order) == [names[3], names[1], names[0], names[2]]


def test_planning_does_not_import_torch() -> None:
    code = "import sys, safemerge.methods, safemerge.cli, safemerge.table; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_safety_prompt_at_test_time_changes_no_weight() -> None:
    [point] = methods.ptst(system_prompt="Be safe.")
    assert point.system_prompt == "Be safe." and point.adapter == "task" and point.repair.kind == "keep"
    with pytest.raises(UserError, match="system_prompt is empty"):
        methods.ptst(system_prompt=" ")
