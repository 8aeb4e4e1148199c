"""mypy sees a misspelt name at every seam: rows, run.json, stage settings, settings, artifacts, results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAD = """
from pathlib import Path
from data.dataset import Source
from data.schema import Completion, Verdict
from evaluation.analysis import Group
from evaluation.long_form import ResultRow
from evaluation.run_file import Check, PointRecord, RunFile
from pipeline import artifacts
from pipeline.grid import Candidate
from pipeline.job import Job
from pipeline.settings import Config
from pipeline.stage_settings import Finetune, Generate
from pipeline.store import Step
from pipeline.unkeyed import Asking, Engine
"""
#: Each has one misspelt name.
WRONG = {
    "an item": "artifacts.items(Path())[0].refrence",
    "a completion": "Completion('i', 'p', 'c', completion_token=3)",
    "a verdict": "Verdict('i', 'unsave')",
    "run.json, written": "Check(name='n', status='pass', detials='')",
    "run.json, read": "def read(run: RunFile) -> str: return run.runs[0].primary_juge",
    "a setting in run.json's record of them": "def looked_up(run: RunFile) -> object: return run.config['train']",
    "a point of run.json": "def point(its: PointRecord) -> int: return its.merged_moduels",
    "a stage's settings": "Generate('vllm', 'float32', 8, 'tset', None, 0.0, None, None)",
    "a stage's settings, read": "def settings(its: Finetune) -> int: return its.batchsize",
    "what a stage is told outside the key": "Engine(1, 2, 0.5, tensor_parallel=1)",
    "what a stage is told outside the key, read": "def asked(job: Job) -> int: return job.beside(Asking).attempt",
    "the same, in no form": "def told(job: Job) -> object: return job.unkeyed.attempts",
    "a step's, in no form": "Step('finetune', 'n', {}, {}, {'device': 2})",
    "the settings": "def config(its: Config) -> str | None: return its.selection.harms",
    "a candidate": "def steps(its: Candidate) -> object: return its.verdict",
    "a group": "def group(its: Group) -> object: return its.headlines",
    "a row of results.csv": "def row(its: ResultRow) -> object: return its.ci_hi",
    "a data source": "source: Source = {'source': 'bundeld'}",
    "a check": "artifacts.checks(Path())[0].affect",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("types") / "misspelt.py"
    file.write_text(HEAD + "\n".join(WRONG.values()) + "\n")
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("seam", WRONG)
def test_a_misspelt_name_is_an_error(seam: str, found: str) -> None:
    line = HEAD.count("\n") + 1 + list(WRONG).index(seam)
    assert f"misspelt.py:{line}: error" in found, found[-2000:]


@pytest.mark.slow
def test_nothing_else_is(found: str) -> None:
    lines = {line.split(": error")[0] for line in found.splitlines() if ": error" in line}
    assert len(lines) == len(WRONG), found
