"""rho of a full fine-tune against the dense algorithm, at the shapes of an 8B model's layer: time, memory, error.

As a module (python -m tests.benchmarks.full ours|dense BASE ALIGNED TASK) it measures one side, in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from safemerge import Checkpoint, similarity
from tests.benchmarks.page import Row
from tests.benchmarks.probe import status

SHAPES = {"self_attn.q_proj": (4096, 4096), "mlp.up_proj": (14336, 4096), "mlp.down_proj": (4096, 14336)}
SIDES = ("base", "aligned", "task")


def make_models(folder: Path, shrink: int) -> list[Path]:
    """Base weights N(0, 0.02), moved by N(0, 0.001) for the aligned and by N(0, 0.0005) for the task model, in bf16."""
    generator = torch.Generator().manual_seed(0)
    for kind, (rows, columns) in SHAPES.items():
        name = f"model.layers.0.{kind}.weight"
        weight = torch.zeros(rows // shrink, columns // shrink)
        for side, step in zip(SIDES, (0.02, 0.001, 0.0005), strict=True):
            weight += step * torch.randn(weight.shape, generator=generator)
            weight = weight.bfloat16().float()
            (folder / side).mkdir(parents=True, exist_ok=True)
            save_file({name: weight.bfloat16()}, folder / side / f"{kind}.safetensors")
    index = {"weight_map": {f"model.layers.0.{kind}.weight": f"{kind}.safetensors" for kind in SHAPES}}
    for side in SIDES:
        (folder / side / "model.safetensors.index.json").write_text(json.dumps(index))
    return [folder / side for side in SIDES]


def dense_rho(update: Tensor, v: Tensor) -> float:
    """The official code's way: C = V V^T / ||V||_F (d_out x d_out) and C dW built, and their cosine, in the given dtype."""
    projected = (v @ v.T / v.norm()) @ update
    return float(torch.nn.functional.cosine_similarity(update.flatten(), projected.flatten(), dim=0))


def dense_table(base: Path, aligned: Path, task: Path) -> dict[str, float]:
    """rho by the dense formula in float32; reads the weights as ours does, one module at a time."""
    return {kind: dense_rho(*_differences(kind, torch.float32, base, aligned, task)) for kind in SHAPES}


def our_table(base: Path, aligned: Path, task: Path) -> dict[str, float]:
    rows = similarity(base=base, aligned=aligned, task_model=task)
    return {row.module.removeprefix("model.layers.0."): row.rho for row in rows}


def _differences(kind: str, dtype: torch.dtype, *models: Path) -> tuple[Tensor, Tensor]:
    """dW and V of one module."""
    start, middle, end = (Checkpoint(model).weight(f"model.layers.0.{kind}").to(dtype) for model in models)
    return end - middle, middle - start


def reference_rho(update: Tensor, v: Tensor) -> float:
    """rho in float64, with the products in the order that is cheaper."""
    tall = v.shape[0] > v.shape[1]
    projected = v @ (v.T @ update) if tall else (v @ v.T) @ update
    return float((update * projected).sum() / (update.norm() * projected.norm()))


def full_fine_tune(folder: Path, shrink: int) -> list[Row]:
    """One pass of either side, each in its own process."""
    models = make_models(folder, shrink)
    found = {}
    for side in ("ours", "dense"):
        command = [sys.executable, "-m", "tests.benchmarks.full", side, *map(str, models)]
        found[side] = json.loads(
            subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
        )
    errors = dict.fromkeys(found, 0.0)
    for kind in SHAPES:
        exact = reference_rho(*_differences(kind, torch.float64, *models))
        for side, measured in found.items():
            errors[side] = max(errors[side], abs(measured["rho"][kind] - exact))
    ours, dense = found["ours"], found["dense"]
    module = 4 * max(rows * columns for rows, columns in SHAPES.values()) // shrink**2
    faster, used = dense["seconds"] / ours["seconds"], ours["peak"] / module
    name = "rho of a full fine-tune, Llama-3.1-8B q, up and down of a layer, bf16 checkpoint"
    times = f"{ours['seconds']:.1f} s against {dense['seconds']:.1f} s"
    sizes = f"{ours['peak'] / 1e6:.0f} MB against {dense['peak'] / 1e6:.0f} MB, mapped files included"
    exactness = f"against float64; the dense algorithm's: {errors['dense']:.1e}"
    return [
        Row(
            f"{name}, against the dense algorithm",
            f"{faster:.1f}x less time",
            ">= 1.5x",
            faster >= 1.5,
            times,
        ),
        Row(f"{name}, peak memory", f"{used:.2f}x the largest module in float32", "<= 4x", used <= 4, sizes),
        Row(f"{name}, error", f"{errors['ours']:.1e}", "<= 1e-6", errors["ours"] <= 1e-6, exactness),
    ]


if __name__ == "__main__":
    table = {"ours": our_table, "dense": dense_table}[sys.argv[1]]
    before, start = status("VmRSS"), time.perf_counter()
    rhos = table(*map(Path, sys.argv[2:]))
    took = time.perf_counter() - start
    print(json.dumps({"rho": rhos, "seconds": took, "peak": status("VmHWM") - before}))
