"""What a point of a sweep costs: 12 points through one engine, against a process and an engine for each of them.

python -m tests.benchmarks.sweep [--prompts N] --output docs/scale/sweep.json

Both sides answer the same prompts with the same adapters on the default model; neither judges. The shared side is the
pipeline's own command, from the similarity table on, with its start and its engine check. The other goes about each point
as the authors' script does: a process that loads both models and both adapters, takes rho from dense matrices, merges by
PEFT, loads the engine with the adapter, and generates; no check. The adapters are of trainings of two steps: serving them
takes as long.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from pipeline import artifacts, grid, plan, provenance
from pipeline.config import check
from pipeline.stage_settings import Generate, Merge
from pipeline.store import Store

ROOT = Path(__file__).resolve().parents[2]
BAR = 4.0  # times less time a point
GRID = ["method.safemerge.tau=[q0.3,q0.5,q0.6,q0.75]", "method.safemerge.alpha=[0.5,0.7,0.8]"]
SHORT = ["train.align.limit=8", "train.align.helpful_limit=8", "train.task.limit=16", "train.safety.limit=16"]
ONE = "tests.benchmarks.one_point"


def settings(folder: Path, prompts: int) -> list[str]:
    """The overrides of both sides."""
    return [
        "model=smollm2-135m",
        "method=[safemerge]",
        *GRID,
        *SHORT,
        "benchmark=[directharm]",
        f"data.limits.items.directharm={prompts}",
        "data.limits.items.gsm8k=2",  # the task's own benchmark: next to nothing, as the other side does not answer it
        "benchmark.gsm8k.max_tokens=1",
        "judge=[refusal]",
        "selection.grid=all",
        "tracking=off",
        f"store={folder / 'store'}",
        f"runs={folder / 'runs'}",
    ]


def run(*command: str) -> tuple[float, str]:
    """Wall time (s) of a Python module run with these arguments, and what it printed; raises if it fails."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env={**os.environ, "COLUMNS": "120"}, **PIPES
    )
    seconds = time.monotonic() - start
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)[:200]}: exit {done.returncode}\n{done.stderr[-3000:]}")
    return seconds, done.stdout


PIPES: dict[str, Any] = {"capture_output": True, "text": True}


def stages(out: str) -> dict[str, float]:
    """Wall time (s) of each stage in the table that the pipeline prints at its end."""
    found = re.findall(r"^ *([a-z][a-z ]+?) +\d+ +\d+ +([\d.]+) ", out, re.M)
    return {title: float(seconds) for title, seconds in found if title != "total"}


def orders(overrides: list[str], folder: Path) -> list[tuple[dict[str, Any], list[Path]]]:
    """What a process of its own is told for each point, and where the shared run's completions of it are."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        x = plan.build(check(compose("config", overrides)))
    store = Store(Path(x.config.store))
    told = []
    for number, its in enumerate(grid.candidates(x, store)):
        assert its.adapter is not None
        merge = Merge(**dict(its.adapter.settings))  # type: ignore[union-attr]
        replies = list(its.completions["directharm"].values())
        how = Generate(**dict(replies[0].settings))
        told.append(
            (
                {
                    "base": artifacts.model_folder(store.path(x.base)),
                    "model": artifacts.model_folder(store.path(x.aligned)),
                    "task": str(store.path(x.adapters["task"])),
                    "safety": str(store.path(x.adapters["safety"])),
                    "items": str(store.path(x.items["directharm"])),
                    "selected": merge.selected,
                    "repair": merge.repair,
                    "dtype": how.dtype,
                    "max_tokens": how.max_tokens,
                    "system": how.system_prompt,
                    "output": str(folder / f"point{number}"),
                },
                [store.path(step) / artifacts.COMPLETIONS for step in replies],
            )
        )
    return told


def texts(paths: list[Path]) -> dict[str, str]:
    """Completions by prompt."""
    rows = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    return {row["id"]: row["completion"] for row in rows}


def measure(prompts: int, folder: Path) -> dict[str, Any]:
    """Both sides, one after the other."""
    overrides = settings(folder, prompts)
    start = time.monotonic()
    run("pipeline", *overrides, "stages=[prepare,finetune]")
    prepared = time.monotonic() - start
    say(f"prepared in {prepared:.0f} s")
    shared, out = run("pipeline", *overrides, "stages=[similarity,merge,generate]")
    parts = stages(out)
    say(f"shared: {shared:.1f} s, {parts}")
    told = orders(overrides, folder)
    assert len({json.dumps([its["selected"], its["repair"]]) for its, _ in told}) == 12, "12 distinct points"
    apart, merged, ready, same, tokens = [], [], [], 0, 0
    for its, replies in told:
        (folder / "order.json").write_text(json.dumps(its))
        seconds, said = run(ONE, str(folder / "order.json"))
        found = json.loads(said.splitlines()[-1])
        apart.append(seconds)
        ready.append(found["ready_s"])
        merged.append(found["merged_s"])
        tokens += found["tokens"]
        same += sum(text == found["replies"][key] for key, text in texts(replies).items())
        say(f"apart: {seconds:.1f} s, engine ready after {found['ready_s']:.1f} s")
    return {
        "points": len(told),
        "prompts": prompts,
        "tokens": tokens,
        "shared_s": round(shared, 1),
        "shared_stages_s": parts,
        "apart_s": round(sum(apart), 1),
        "apart_merged_s": round(statistics.fmean(merged), 2),
        "apart_ready_s": round(statistics.fmean(ready), 2),
        "apart_generation_s": round(statistics.fmean(apart) - statistics.fmean(ready), 2),
        "ratio": round(sum(apart) / shared, 2),
        "bar": BAR,
        "same_replies": same / (len(told) * prompts),
        "preparing_s": round(prepared, 1),
        "load_average": round(os.getloadavg()[0], 1),
        **provenance.collect(),
    }


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Measure and write the numbers; docs/scale.md is made from them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=8, help="per point (default 8)")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options.prompts, Path(folder))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{found['ratio']:.2f}x less time through one engine (bar {BAR:g}x)")


if __name__ == "__main__":
    main()
