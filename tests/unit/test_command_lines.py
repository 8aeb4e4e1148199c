"""Wrong options of every command, and of make: one line, exit code 2."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from evaluation import claims, multiverse, reader_labels, readme, report, sensitivity, stability
from pipeline import housekeeping, lm_eval
from safemerge import cli

ROOT = Path(__file__).resolve().parents[2]
MAINS: dict[str, Callable[[Sequence[str]], int]] = {
    "claims": claims.main,
    "multiverse": multiverse.main,
    "reader_labels": reader_labels.main,
    "readme": readme.main,
    "report": report.main,
    "sensitivity": sensitivity.main,
    "stability": stability.main,
    "housekeeping": housekeeping.main,
    "lm_eval": lm_eval.main,
    "safemerge": cli.main,
}


@pytest.mark.parametrize("name", MAINS)
@pytest.mark.parametrize("arguments", [["--no-such-option"], ["no", "such", "words", "--either"]])
def test_wrong_options_are_one_line(
    name: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        MAINS[name](arguments)
    said = capsys.readouterr()
    assert stop.value.code == 2 and not said.out
    assert said.err.startswith("error: ") and said.err.endswith(" --help\n") and said.err.count("\n") == 1


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    # These tests run under make themselves, which hands its own settings on.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
    }
    return subprocess.run(
        ["make", "-n", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def test_a_misspelt_setting_of_make_runs_nothing() -> None:
    done = make("plan", "TSAK=pubmedqa")
    assert done.returncode == 2 and not done.stdout
    assert "no such setting: TSAK; use MODEL TASK" in done.stderr


@pytest.mark.parametrize(
    "setting", ["MODEL=tiny", "ARGS=seed=3 generation.dtype=float32", "DATA_ROOT=/data", "INSTALLER=pip"]
)
def test_the_settings_of_make_are_taken(setting: str) -> None:
    assert make("help", setting).returncode == 0
