"""The `safemerge` command, in process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from safemerge import read_table
from safemerge.cli import main
from safemerge.options import METHODS, build_parser, build_point
from tests.conftest import Pico
from tests.pico import deltas


def sources(pico: Pico) -> list[str]:
    return ["--base", str(pico.base), "--aligned", str(pico.aligned), "--task-adapter", str(pico.task)]


def repair(pico: Pico, *options: str) -> int:
    return main(["repair", *sources(pico), "--safety-adapter", str(pico.safety), *options])


def test_repair_writes_an_adapter_a_card_and_a_table(
    pico: Pico, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert repair(pico, "--tau", "q0.5", "--alpha", "0.6", "--output", str(out)) == 0
    said = capsys.readouterr().out
    assert "repaired 7 of 14 modules, rank 8" in said
    rows = read_table(out / "similarity.csv")
    task, safety, found = deltas(pico.task), deltas(pico.safety), deltas(out)
    lowest = {row.module for row in sorted(rows, key=lambda row: row.rho)[:7]}
    for name, delta in found.items():
        expected = 0.6 * task[name] + 0.4 * safety[name] if name in lowest else task[name]
        assert torch.allclose(delta, expected, rtol=1e-6, atol=1e-7)
    card = (out / "README.md").read_text()
    assert "| method | safemerge |" in card
    assert "| tau setting | q0.5 |" in card
    assert "| aligned fingerprint |" in card


@pytest.mark.parametrize(
    ("tau", "said"), [("1", "every module is repaired"), ("0", "no module is repaired"), ("q0.5", "")]
)
def test_a_threshold_that_divides_nothing_is_said(
    pico: Pico, tmp_path: Path, capsys: pytest.CaptureFixture[str], tau: str, said: str
) -> None:
    assert repair(pico, "--tau", tau, "--output", str(tmp_path / "out")) == 0
    error = capsys.readouterr().err
    assert said in error and ("with this tau" in error) == bool(said)


def test_a_median_in_the_card_is_the_one_that_q_half_means(pico: Pico, tmp_path: Path) -> None:
    assert repair(pico, "--tau", "q0.5", "--output", str(tmp_path / "out")) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    tau = float(card.split("| tau | ")[1].split(" ")[0])
    assert f"median {tau:.4f}" in card  # of 14 modules: between the two in the middle


def test_inspect_counts_and_saves(pico: Pico, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "deep" / "similarity.csv"
    assert main(["inspect", *sources(pico), "--tau", "0", "q0.5", "2", "--output", str(table)]) == 0
    said = capsys.readouterr().out
    assert "model.layers.1.self_attn.q_proj" in said
    for count in ("0 of 14", "7 of 14", "14 of 14"):
        assert count in said
    assert len(read_table(table)) == 14


def test_export_writes_a_full_model(pico: Pico, tmp_path: Path) -> None:
    code = repair(
        pico, "--output", str(tmp_path / "lora"), "--export-model", str(tmp_path / "full"), "--rank", "4"
    )
    assert code == 0
    assert json.loads((tmp_path / "lora" / "adapter_config.json").read_text())["r"] == 4
    assert {"config.json", "model.safetensors"} <= {path.name for path in (tmp_path / "full").iterdir()}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_point(method: str) -> None:
    required = ["repair", "--base", "b", "--aligned", "a", "--task-adapter", "t", "--output", "o"]
    assert build_point(build_parser().parse_args([*required, "--method", method])).method == method


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tau", "q7"], "tau=q7"),
        (["--alpha", "2"], "alpha=2"),
        (["--k", "many", "--method", "safelora"], "--k many"),
        (["--combine", "ties"], "needs density"),
        (["--gamma", "0.3"], "--gamma 0.3 changes nothing with --method safemerge, which reads --tau"),
        (["--method", "safelora", "--alpha", "0.3"], "--alpha 0.3 changes nothing with --method safelora"),
        (["--method", "full", "--tau", "0.3"], "--tau 0.3 changes nothing with --method full"),
        (["--method", "random", "--k", "3", "--tau", "0.3"], "--tau 0.3 changes nothing beside --k 3"),
        (["--seed", "3"], "seed=3 changes nothing where combine=exact"),
        (["--public"], "--public changes nothing without --push-to-hub"),
        (["--device", "gpu7"], "cannot use device gpu7"),
        (["--base", "/nowhere"], "no folder /nowhere"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    pico: Pico, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert repair(pico, "--output", str(tmp_path / "out"), *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("safemerge: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_missing_safety_adapter_and_an_existing_output_are_refused_before_work(
    pico: Pico, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["repair", *sources(pico), "--output", str(tmp_path / "out")]) == 2
    assert "needs --safety-adapter" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert repair(pico, "--output", str(tmp_path)) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_help_explains_and_exits_cleanly(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["repair", "--help"], ["inspect", "--help"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0
        assert "examples:" in capsys.readouterr().out
