"""The pipeline of the tiny model is interrupted where it hurts, goes on, and works without vLLM as well.

Trained less than `model=tiny` is: nothing here depends on what the model says.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here (there is no build for this platform)")

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.recipe
MARK = "written before the interruption"
QUICK = [
    "model=tiny",
    "judge=[guard,refusal]",
    "model.base.steps=30",
    "train.task.limit=64",
    "train.safety.limit=32",
    "train.align.limit=32",
    "train.align.helpful_limit=16",
    "method=[aligned,finetuned,safemerge]",
    "method.safemerge.tau=q0.5",
    "method.safemerge.alpha=0.7",
    "data.limits.items={gsm8k: 12, directharm: 12, xstest: 9}",
    "tracking=off",
]


class Pipeline:
    def __init__(self, folder: Path) -> None:
        self.store = folder / "store"
        self.folders = [
            f"store={self.store}",
            f"runs={folder / 'runs'}",
            f"tracking.dir={folder / 'tracking'}",
        ]

    def start(self, *overrides: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline", *QUICK, *self.folders, *overrides],
            cwd=ROOT,
            env={**os.environ, "WANDB_MODE": "offline"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell's background job ignores SIGINT, and so would every process that the tests start.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, *overrides: str) -> str:
        """stdout of a run that must succeed."""
        process = self.start(*overrides)
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, out[-3000:] + err[-3000:]
        return out

    def interrupt(self, ready: Callable[[], bool], *overrides: str) -> None:
        """Start, send SIGINT as soon as `ready`, and expect the process to end as after Ctrl-C."""
        process = self.start(*overrides)
        while process.poll() is None and not ready():
            time.sleep(0.01)
        if process.poll() is not None:
            out, err = process.communicate()
            pytest.fail(f"ended before it could be interrupted: {out[-2000:]}{err[-2000:]}")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, out[-2000:] + err[-2000:]
        assert "finished work is kept" in err and "Traceback" not in err

    def manifests(self) -> dict[str, tuple[int, str]]:
        """Of every finished artifact, the time of its manifest and its name."""
        return {
            f"{p.parent.parent.name}/{p.parent.name}": (
                p.stat().st_mtime_ns,
                json.loads(p.read_text())["name"],
            )
            for p in self.store.glob("*/*/manifest.json")
        }


def test_interrupted_twice_it_goes_on_and_keeps_what_was_finished(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    store = pipeline.store

    # 1. While the second LoRA of a worker is trained: the first one is finished, the second is not.
    pipeline.interrupt(lambda: any(store.glob("finetune/*.partial/done.json")))
    first = pipeline.manifests()
    names = {name for _, name in first.values()}
    assert "align LoRA" in names and "guard LoRA" not in names

    # 2. While completions arrive, slowly: two at a time.
    def arriving() -> list[Path]:
        return [p for p in store.glob("generate/*.partial/rows.partial.jsonl") if p.stat().st_size]

    pipeline.interrupt(lambda: bool(arriving()), "generation.max_num_seqs=2")
    second = pipeline.manifests()
    assert first.items() <= second.items(), "nothing finished is made again"
    names = {name for _, name in second.values()}
    assert {
        "guard LoRA",
        "task LoRA",
        "safety LoRA",
        "similarity",
    } <= names and "safeinstruct LoRA" not in names
    marked = arriving()[0]
    lines = marked.read_text().splitlines()
    row = {**json.loads(lines[0]), "completion": MARK}
    marked.write_text(json.dumps(row) + "\n" + '{"id": "cut", "comp')

    # 3. To the end. The marked row can only be in the result if it was not generated again.
    out = pipeline.run()
    assert second.items() <= pipeline.manifests().items()
    final = store / "generate" / marked.parent.name.removesuffix(".partial") / "completions.jsonl"
    rows = [json.loads(line) for line in final.read_text().splitlines()]
    manifest = json.loads((final.parent / "manifest.json").read_text())
    items = (store / "prepare" / manifest["inputs"]["items"] / "rows.jsonl").read_text().splitlines()
    half = [i for i in map(json.loads, items) if i["half"] == manifest["settings"]["half"]]
    assert len(items) == {"gsm8k": 12, "directharm": 12, "xstest": 9}[manifest["name"]]
    assert sorted(r["id"] for r in rows) == sorted(i["id"] for i in half)
    assert [r["completion"] for r in rows if r["id"] == row["id"]] == [MARK]
    assert not list(store.glob("*/*.partial")) and "report" in out

    # 4. Once more: nothing is made, and soon.
    start = time.monotonic()
    out = pipeline.run()
    assert "0 artifacts made" in out
    assert time.monotonic() - start < 60  # 20 s is the bar on an idle machine; tests share theirs

    check_outputs(tmp_path)
    check_the_other_backend(pipeline)


def check_outputs(folder: Path) -> None:
    latest = folder / "latest"
    assert latest.is_symlink() and not os.path.isabs(os.readlink(latest)), "outputs/ can be moved as a whole"
    run = json.loads((latest / "run.json").read_text())
    assert {"run", "created", "git", "machine", "packages", "wall_time_s", "config", "runs"} <= set(run)
    assert run["config"]["seed"] == 0 and run["packages"]["torch"] and run["peak_memory_bytes"] > 1 << 20
    entry = run["runs"][0]
    assert set(entry["training"]) == {"task", "safety", "align", "guard"}
    measured = entry["judges"]["guard"]["calibration"]
    assert sum(measured[name] for name in ("tp", "fp", "tn", "fn", "invalid")) == measured["n"]
    assert 0 < measured["unsafe_effective"] <= measured["tp"] + measured["fn"]
    merged = next(p for p in entry["points"] if p["method"] == "safemerge")
    assert 0 < merged["merged_modules"] < merged["modules"] == 28
    assert (latest.resolve() / merged["adapter"] / "adapter_model.safetensors").exists()
    assert all((latest.resolve() / path).exists() for path in merged["completions"]["gsm8k"])
    with (latest.resolve() / entry["similarity"]).open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 28
    assert list(rows[0]) == [
        "module",
        "layer",
        "kind",
        "rho",
        "null",
        "rho_over_null",
        "norm_task",
        "norm_v",
        "norm_projected",
        "flags",
    ]
    report = latest / "report"
    assert (report / "report.html").stat().st_size > 1000 and "| **SafeMERGE" in (
        report / "report.md"
    ).read_text()
    assert {"results.csv", "results.json", "similarity.csv"} <= {p.name for p in report.iterdir()}
    assert list(report.rglob("*.png"))


def check_the_other_backend(pipeline: Pipeline) -> None:
    """transformers makes artifacts of the same shape, from the same adapters."""
    before = pipeline.manifests()
    pipeline.run("generation.backend=transformers", "method=[aligned,finetuned]")
    new = [key for key in pipeline.manifests() if key not in before]
    stages = {key.partition("/")[0] for key in new}
    assert stages == {"generate", "judge", "parity", "check"}, (
        "nothing is trained or merged for another backend"
    )
    for stage, file in (("generate", "completions.jsonl"), ("judge", "verdicts.jsonl")):
        shapes = {}
        for origin, keys in (("vllm", before), ("transformers", new)):
            folders = [
                f for key in keys if key.startswith(stage) and (f := pipeline.store / key / file).exists()
            ]
            found = [json.loads(line) for f in folders for line in f.read_text().splitlines()]
            shapes[origin] = {
                frozenset((k, type(v)) for k, v in row.items() if v is not None) for row in found
            }
            if stage == "generate":
                assert {r["finish_reason"] for r in found} <= {"stop", "length"}
                assert all(
                    r["prompt_tokens"] > 0 and r["completion_tokens"] > 0
                    for r in found
                    if r["completion"] != MARK
                )
        if stage == "generate":  # verdicts have fields that may be null
            assert shapes["transformers"] == shapes["vllm"]
        assert shapes["transformers"] & shapes["vllm"]
