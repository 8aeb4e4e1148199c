"""The null of rho: its formula against Monte Carlo, its estimate against the formula, and what is done with it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from safemerge import methods, null, read_table, similarity_table, subspace
from safemerge.adapters import load_adapter
from safemerge.cli import main
from safemerge.errors import UserError
from safemerge.selection import Selection, check_tau, resolve_tau, select
from safemerge.table import ModuleRow, write_table
from tests.conftest import Pico
from tests.pico import dense_rho


def falling(d_out: int, d_in: int, power: float, rank: int | None = None) -> torch.Tensor:
    """V with singular values i^-power, `rank` of them."""
    gaussian = torch.randn(d_out, d_in, generator=torch.Generator().manual_seed(d_out), dtype=torch.float64)
    u, s, w = torch.linalg.svd(gaussian, full_matrices=False)
    s = torch.arange(1, len(s) + 1, dtype=torch.float64) ** -power
    s[len(s) if rank is None else rank :] = 0
    return u * s @ w


def exact(v: torch.Tensor, rank: int) -> float:
    """The formula with all singular values."""
    levels = (torch.linalg.svdvals(v.double()) ** 2).tolist()
    return null.expected_rho(null.Spectrum(tuple(levels), (1.0,) * len(levels)), *v.shape, rank)


def measured(v: torch.Tensor, b: torch.Tensor, a: torch.Tensor) -> subspace.Similarity:
    return subspace.similarity(subspace.fold(a, b), v.float(), torch.zeros(v.shape))


SHAPES = [(40, 90), (90, 40)]
V = [(0.0, None), (0.5, None), (1.0, None), (0.3, 3), (0.0, 1)]  # power and rank of V


@pytest.mark.parametrize("rank", [1, 2, 8])
@pytest.mark.parametrize(("power", "of_v"), V)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_formula_is_the_mean_rho_of_gaussian_updates(
    shape: tuple[int, int], power: float, of_v: int | None, rank: int
) -> None:
    v = falling(*shape, power, of_v)
    generator = torch.Generator().manual_seed(1)
    b = torch.randn(800, shape[0], rank, generator=generator, dtype=torch.float64)
    a = torch.randn(800, rank, shape[1], generator=generator, dtype=torch.float64)
    delta = b @ a
    moved = v @ (v.T @ delta)
    rhos = (delta * moved).sum((1, 2)) / (delta.norm(dim=(1, 2)) * moved.norm(dim=(1, 2)))
    error = float(rhos.std()) / math.sqrt(len(rhos))
    assert exact(v, rank) == pytest.approx(float(rhos.mean()), abs=4 * error + 2e-3 * float(rhos.mean()))


def test_at_a_large_rank_it_is_the_participation_ratio() -> None:
    v = falling(60, 80, 0.7)
    ratio = float(v.norm()) ** 4 / float((v @ v.T).norm()) ** 2
    levels = null.Spectrum(tuple((torch.linalg.svdvals(v) ** 2).tolist()), (1.0,) * 60)
    assert null.expected_rho(levels, 60, 10**9, 10**5) == pytest.approx(math.sqrt(ratio / 60), rel=1e-4)
    assert abs(exact(v, 2) / math.sqrt(ratio / 60) - 1) > 0.02, "the rank matters where it is small"


def test_one_direction_is_a_mean_of_a_beta() -> None:
    """V of rank 1: rho^2 is Beta(r/2, (d_out - 1) r/2), and the mean of its root for r = 1 a ratio of four Gammas."""
    d = 50
    expected = math.exp(math.lgamma(1) + math.lgamma(d / 2) - math.lgamma(0.5) - math.lgamma((d + 1) / 2))
    assert exact(falling(d, 200, 0, 1), 1) == pytest.approx(expected, rel=1e-6)


def test_v_that_treats_all_outputs_alike_has_a_null_of_one() -> None:
    assert exact(falling(40, 90, 0), 8) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(
    ("power", "of_v", "within"), [(0.5, 12, 1e-4), (1.0, None, 0.02), (0.0, None, 0.04), (0.5, None, 0.15)]
)
@pytest.mark.parametrize("shape", [(120, 300), (300, 120)])
def test_the_estimate_beside_rho_is_the_formula(
    shape: tuple[int, int], power: float, of_v: int | None, within: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three times the standard deviation that the docstring states, over seeds of the probes; and no bias."""
    v = falling(*shape, power, of_v)
    b, a = torch.randn(shape[0], 8, dtype=torch.float64), torch.randn(8, shape[1], dtype=torch.float64)
    errors = []
    for seed in range(8):
        monkeypatch.setattr(null, "_SEED", seed)
        null.probes.cache_clear()
        errors.append(measured(v, b, a).null / exact(v, 8) - 1)
    null.probes.cache_clear()
    assert max(map(abs, errors)) < within
    assert abs(sum(errors) / 8) < within / 2


def test_it_is_scale_free_depends_on_v_alone_and_leaves_rho_as_it_is() -> None:
    v = falling(70, 50, 0.6)
    one, other = (torch.randn(2, 70, 4, generator=torch.Generator().manual_seed(s))[0] for s in (1, 2))
    a = torch.randn(4, 50, generator=torch.Generator().manual_seed(3))
    found = measured(v, one, a)
    assert measured(v, other, a).null == pytest.approx(found.null, rel=1e-6)
    assert measured(v * 1e-4, one, a).null == pytest.approx(found.null, rel=1e-4)
    assert found.rho == pytest.approx(dense_rho(one.double() @ a.double(), v), abs=1e-6)


def test_updates_planted_in_v_lie_above_the_null_and_random_ones_at_it() -> None:
    v = falling(90, 60, 0.8)
    generator = torch.Generator().manual_seed(4)
    u = torch.linalg.svd(v).U
    a = torch.randn(8, 60, generator=generator).double()
    noise = torch.randn(90, 8, generator=generator).double()
    along = u[:, :8] @ torch.randn(8, 8, generator=generator).double()
    ratios = []
    for share in (0.0, 0.3, 1.0):
        found = measured(v, share * along + (1 - share) * noise * float(along.norm() / noise.norm()), a)
        ratios.append(found.rho / found.null)
    assert ratios[0] == pytest.approx(1, abs=0.25)
    assert ratios == sorted(ratios) and ratios[2] > 2
    away = measured(v, u[:, 40:48] @ torch.randn(8, 8, generator=generator).double(), a)
    assert away.rho / away.null > 1.5, (
        "alone in weak directions, rho is high too: it measures evenness, not strength"
    )


def test_degenerate_modules() -> None:
    a, b, v = torch.randn(2, 9), torch.randn(12, 2), falling(12, 9, 0.5)
    assert measured(torch.zeros(12, 9), b, a).null == 0.0
    still = measured(v, torch.zeros(12, 2), a)
    assert still.flags == ("zero_update",) and still.null == pytest.approx(measured(v, b, a).null)


def row(name: str, rho: float, expected: float = math.nan, *flags: str) -> ModuleRow:
    return ModuleRow(name, 0, "q_proj", rho, 1.0, 1.0, 1.0, flags, expected)


ROWS = [
    row("a", 0.3, 0.1),
    row("b", 0.2, 0.2),
    row("c", 0.6, 0.4),
    row("d", 0.45, 0.5),
    row("e", 0, 0, "zero_v"),
]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection("below", tau="n1.2"), "bde"),
        (Selection("below", tau="n1"), "de"),
        (Selection("below", tau="n0"), ""),
        (Selection("at_most", tau="n1"), "bd"),
        (Selection("lowest_null", k=2), "ae"),
        (Selection("lowest_null", tau="n1.2"), "abe"),
        (Selection("lowest_ratio", k=0.4), "de"),
    ],
)
def test_selections_in_units_of_the_null(selection: Selection, expected: str) -> None:
    assert "".join(select(ROWS, selection)) == expected


def test_tau_in_units_of_the_null_is_checked_and_resolved() -> None:
    assert check_tau("n1.50") == "n1.5" and resolve_tau("n1.5", ROWS) == 1.5
    for wrong in ("n", "n-1", "nan", "nq0.5"):
        with pytest.raises(UserError, match=f"tau={wrong}"):
            check_tau(wrong)
    assert methods.safemerge(tau=["n1.5", "q0.5"], alpha=0.8)[0].label == "safemerge tau=n1.5 alpha=0.8"


def test_an_older_table_is_read_and_only_the_null_is_missed(tmp_path: Path) -> None:
    path = tmp_path / "similarity.csv"
    path.write_text(
        "module,layer,kind,rho,norm_task,norm_v,norm_projected,flags\nm.0.q_proj,0,q_proj,0.5,1,1,1,\n"
    )
    rows = read_table(path)
    assert select(rows, Selection("below", tau=0.6)) == ("m.0.q_proj",)
    for selection in (Selection("below", tau="n1.5"), Selection("lowest_null", k=1)):
        with pytest.raises(UserError, match="measure the adapter again"):
            select(rows, selection)
    write_table(path, rows)
    assert read_table(path) == rows
    write_table(path, ROWS)
    assert read_table(path) == ROWS
    assert replace(ROWS[0], null=0.2).ratio == pytest.approx(1.5)


def test_inspect_shows_the_null_in_text_in_json_and_in_the_table(
    pico: Pico, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = similarity_table(base=pico.base, aligned=pico.aligned, adapter=load_adapter(pico.task))
    sources = ["--base", str(pico.base), "--aligned", str(pico.aligned), "--task-adapter", str(pico.task)]
    table = tmp_path / "similarity.csv"
    assert main(["inspect", *sources, "--tau", "n1.1", "0.5", "--output", str(table)]) == 0
    text = capsys.readouterr().out
    assert "rho/null" in text and f"{rows[0].ratio:.2f}" in text and "1.1000 x null" in text
    assert read_table(table) == rows
    assert main(["inspect", *sources, "--tau", "n1.1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["merged"] == {"n1.1": len(select(rows, Selection("below", tau="n1.1")))}
    assert [its["null"] for its in found["modules"]] == [r.null for r in rows]
    assert found["modules"][3]["rho_over_null"] == pytest.approx(rows[3].rho / rows[3].null)


@pytest.mark.parametrize("method", ["null", "ratio"])
def test_repair_by_the_null(pico: Pico, tmp_path: Path, method: str) -> None:
    rows = similarity_table(base=pico.base, aligned=pico.aligned, adapter=load_adapter(pico.task))
    arguments = ["repair", "--base", str(pico.base), "--aligned", str(pico.aligned)]
    arguments += ["--task-adapter", str(pico.task), "--safety-adapter", str(pico.safety)]
    arguments += ["--output", str(tmp_path / "out"), "--method", method, "--k", "3"]
    assert main(arguments) == 0
    key = {"null": lambda r: r.null, "ratio": lambda r: r.ratio}[method]
    chosen = sorted(r.module for r in sorted(rows, key=key)[:3])
    card = (tmp_path / "out" / "README.md").read_text()
    listed = [
        line[2:] for line in card.partition("## Modules repaired")[2].splitlines() if line.startswith("- m")
    ]
    assert listed == chosen
