"""The whole pipeline on the tiny model with the real vLLM engine, twice: the second time nothing is made."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here (there is no build for this platform)")

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.recipe


def run(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    flags = [o for o in overrides if o.startswith("-")]  # argparse wants Hydra's flags before its overrides
    overrides = tuple(o for o in overrides if not o.startswith("-"))
    command = [
        sys.executable,
        "-m",
        "pipeline",
        *flags,
        "model=tiny",
        f"store={folder}/store",
        f"runs={folder}/runs",
    ]
    command += [
        f"tracking.dir={folder}/tracking",
        "data.limits.items={gsm8k: 16, directharm: 16, xstest: 12}",
    ]
    environment = {**os.environ, "WANDB_MODE": "offline"}
    return subprocess.run(
        [*command, *overrides], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900
    )


def test_the_experiment_runs_and_its_second_run_makes_nothing(tmp_path: Path) -> None:
    first = run(tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    second = run(tmp_path)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "0 artifacts made" in second.stdout

    report = (tmp_path / "latest").resolve() / "report"
    run_json = json.loads((report.parent / "run.json").read_text())
    entry = run_json["runs"][0]
    assert {p["method"] for p in entry["points"]} == {
        "aligned", "finetuned", "safeinstruct", "resta", "safelora", "safemerge", "full"
    }  # fmt: skip
    failed = [g for g in entry["checks"] if g["status"] == "fail"]
    assert not failed, failed
    with (report / "results.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    merges = {r["combine"] for r in rows if r["method"] == "safemerge"}
    assert merges == {"exact", "peft_linear"}, "both arithmetics"
    for metric in ("utility", "harm", "over_refusal"):
        assert any(r["metric"] == metric and r["method"] == "safemerge" for r in rows), metric
    assert {"model", "task", "method", "tau", "alpha", "combine", "seed", "split", "k", "n", "value"} <= set(
        rows[0]
    )
    for name in ("results.json", "similarity.csv", "report.md", "report.html", "pareto.png"):
        assert (report / name).stat().st_size > 0, name
    assert not list((tmp_path / "store").glob("*/*.partial"))
    assert list((tmp_path / "tracking").glob("wandb/offline-run-*"))

    # A sweep shares the store: another seed trains its own three adapters, and nothing of the first again.
    third = run(
        tmp_path, "-m", "seed=0,1", "method.safemerge.tau=q0.25,q0.75", "method.safemerge.alpha=0.7", "tracking=off",
        "method=[aligned,finetuned,safemerge]",
    )  # fmt: skip
    assert third.returncode == 0, third.stdout + third.stderr
    trained = [
        json.loads(p.read_text())["settings"]
        for p in (tmp_path / "store" / "finetune").glob("*/manifest.json")
    ]
    by_role = sorted((s["role"], s["seed"]) for s in trained)
    expected = [("align", 0), ("safeinstruct", 0)]
    assert by_role == sorted([*expected, *((role, seed) for role in ("safety", "task") for seed in (0, 1))])
    together = json.loads(((tmp_path / "latest").resolve() / "run.json").read_text())
    assert [entry["seed"] for entry in together["runs"]] == [0, 1]
    assert "mean over the seeds" in ((tmp_path / "latest").resolve() / "report" / "report.md").read_text()
