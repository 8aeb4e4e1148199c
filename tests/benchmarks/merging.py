"""The merging core against the dense algorithm, on generated checkpoints of the true shapes; writes a page.

python -m tests.benchmarks.merging [--quick] --output docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from safemerge import Checkpoint, load_adapter, methods, repair_adapter, similarity_table
from safemerge.adapters import Adapter, Lora
from safemerge.subspace import fold, similarity
from tests.benchmarks.dense import dense_rho, dense_table, read_and_subtract, reference_rho
from tests.benchmarks.full import full_fine_tune
from tests.benchmarks.page import Row, write_page
from tests.pico import write_lora

Shapes = dict[str, tuple[int, int]]
LLAMA2_QV: Shapes = {"self_attn.q_proj": (4096, 4096), "self_attn.v_proj": (4096, 4096)}
LLAMA31_ALL: Shapes = {
    "self_attn.q_proj": (4096, 4096),
    "self_attn.k_proj": (1024, 4096),
    "self_attn.v_proj": (1024, 4096),
    "self_attn.o_proj": (4096, 4096),
    "mlp.gate_proj": (14336, 4096),
    "mlp.up_proj": (14336, 4096),
    "mlp.down_proj": (4096, 14336),
}


@dataclass(frozen=True)
class Scene:
    """A generated pair of models and an adapter."""

    base: Path
    aligned: Path
    adapter: Adapter
    pair_bytes: int  # the largest module's two weights


def make_scene(
    folder: Path, shapes: Shapes, layers: int, dtype: torch.dtype, rank: int, shrink: int, seed: int = 0
) -> Scene:
    """Weights N(0, 0.02), moved by N(0, 0.001); one shard per layer."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {kind: (rows // shrink, columns // shrink) for kind, (rows, columns) in shapes.items()}
    names = {f"model.layers.{i}.{kind}": size for i in range(layers) for kind, size in sizes.items()}
    index = {f"{name}.weight": f"model-{name.split('.')[2]}.safetensors" for name in names}
    for model in ("base", "aligned"):
        (folder / model).mkdir(parents=True)
        text = '{"weight_map": ' + str(index).replace("'", '"') + "}"
        (folder / model / "model.safetensors.index.json").write_text(text)
    base = {kind: 0.02 * torch.randn(size, generator=generator) for kind, size in sizes.items()}
    moved = {kind: w + 0.001 * torch.randn(w.shape, generator=generator) for kind, w in base.items()}
    for model, weights in (("base", base), ("aligned", moved)):
        halves = {kind: weight.to(dtype) for kind, weight in weights.items()}
        for layer in range(layers):  # every layer has these weights, each in a file of its own
            tensors = {f"model.layers.{layer}.{kind}.weight": half for kind, half in halves.items()}
            save_file(tensors, folder / model / f"model-{layer}.safetensors")
    lora = write_lora(folder / "lora", rank=rank, alpha=2 * rank, shapes=names, dtype=dtype, seed=seed)
    largest = max(rows * columns for rows, columns in sizes.values())
    return Scene(folder / "base", folder / "aligned", load_adapter(lora), 2 * largest * dtype.itemsize)


def seconds(*works: Callable[[], object], repeats: int = 1) -> list[float]:
    """The fastest of some runs of each, wall clock, taken in turns: other work on the machine only ever adds."""
    best = [math.inf] * len(works)
    for _ in range(repeats):
        for index, work in enumerate(works):
            start = time.perf_counter()
            work()
            best[index] = min(best[index], time.perf_counter() - start)
    return best


def against_dense(scene: Scene, name: str, bar: float) -> list[Row]:
    """Ours and the dense algorithm on one scene: time and error of either, and the floor: reading."""
    table: dict[str, float] = {}

    def ours() -> None:
        rows = similarity_table(base=scene.base, aligned=scene.aligned, adapter=scene.adapter)
        table.update({row.module: row.rho for row in rows})

    dense: dict[str, float] = {}
    reading = partial(read_and_subtract, scene.base, scene.aligned, scene.adapter)
    fast, floor = seconds(ours, reading, repeats=5)
    (slow,) = seconds(lambda: dense.update(dense_table(scene.base, scene.aligned, scene.adapter)))
    errors = {"ours": 0.0, "dense": 0.0}
    for module, lora in scene.adapter.modules.items():
        exact = reference_rho(_exact_v(scene, module), lora)
        errors["ours"] = max(errors["ours"], abs(table[module] - exact))
        errors["dense"] = max(errors["dense"], abs(dense[module] - exact))
    detail = f"{fast:.3f} s against {slow:.1f} s; error {errors['ours']:.1e} against {errors['dense']:.1e}"
    faster, slower = slow / fast, fast / floor
    against, times = f"rho, {name}, against", f"{fast:.3f} s against {floor:.3f} s"
    return [
        Row(
            f"{against} the dense algorithm",
            f"{faster:.0f}x less time",
            f">= {bar:g}x",
            faster >= bar,
            detail,
        ),
        Row(f"{against} reading and subtracting", f"{slower:.2f}x", "<= 2.5x", slower <= 2.5, times),
    ]


def _exact_v(scene: Scene, module: str) -> torch.Tensor:
    return Checkpoint(scene.aligned).weight(module).double() - Checkpoint(scene.base).weight(module).double()


def accuracy(shrink: int) -> Row:
    """Largest |rho - float64| over dtypes, ranks and shapes; for one square shape, the dense formula."""
    worst, worst_case, of_norm = 0.0, "", 0.0
    for dtype in (torch.bfloat16, torch.float16):
        for shape in ((4096, 4096), (14336, 4096), (4096, 14336)):
            d_out, d_in = shape[0] // shrink, shape[1] // shrink
            generator = torch.Generator().manual_seed(d_out)
            base = (0.02 * torch.randn(d_out, d_in, generator=generator)).to(dtype)
            aligned = (base.float() + 0.001 * torch.randn(d_out, d_in, generator=generator)).to(dtype)
            exact = aligned.double() - base.double()
            for rank in (8, 16, 64):
                a = torch.randn(rank, d_in, generator=generator).to(dtype)
                b = torch.randn(d_out, rank, generator=generator).to(dtype)
                lora = Lora(a, b, 2.0)
                square = d_out == d_in and rank == 8  # the definition itself is dear: once per dtype
                expected = dense_rho(exact, lora) if square else reference_rho(exact, lora)
                found = similarity(fold(a, b), aligned, base)
                error = abs(found.rho - expected)
                of_norm = max(of_norm, abs(found.norm_v / float(exact.norm()) - 1))
                if error >= worst:
                    worst, worst_case = error, f"{str(dtype)[6:]}, {d_out}x{d_in}, r={rank}"
    detail = f"largest of bf16 and fp16, r = 8, 16, 64, three shapes: {worst_case}; V's norm: {of_norm:.1e}"
    return Row("error of rho against a float64 reference", f"{worst:.1e}", "<= 1e-6", worst <= 1e-6, detail)


def memory(few: Scene, many: Scene, layers: tuple[int, int]) -> Row:
    """Peak resident memory above the imported libraries, mapped file pages included, in its own process."""
    peaks = []
    for scene in (few, many):
        command = [
            sys.executable,
            "-m",
            "tests.benchmarks.probe",
            scene.base,
            scene.aligned,
            scene.adapter.source,
        ]
        peaks.append(
            int(subprocess.run([*map(str, command)], check=True, capture_output=True, text=True).stdout)
        )
    ratios = [peak / few.pair_bytes for peak in peaks]
    growth = ratios[1] / ratios[0]
    detail = f"{peaks[0] / 1e6:.0f} MB with {layers[0]} layers, {peaks[1] / 1e6:.0f} MB with {layers[1]}"
    measured = f"{max(ratios):.2f}x the largest pair"
    return Row("peak memory", measured, "<= 4x, flat in layers", max(ratios) <= 4 and growth < 1.1, detail)


def sweep(scene: Scene, folder: Path) -> Row:
    """25 adapters from one table, against writing the same tensors with safetensors, one after the other."""
    rows = similarity_table(base=scene.base, aligned=scene.aligned, adapter=scene.adapter)
    shapes = {name: (lora.b.shape[0], lora.a.shape[1]) for name, lora in scene.adapter.modules.items()}
    other = write_lora(folder / "safety", rank=16, alpha=32, shapes=shapes, dtype=scene.adapter.dtype, seed=9)
    safety = load_adapter(other)
    ours = floor = 0.0
    size = 0
    grid = methods.safemerge(tau=["q0.1", "q0.3", "q0.5", "q0.7", "q0.9"], alpha=[0.5, 0.6, 0.7, 0.8, 0.9])
    for index, point in enumerate(grid):
        output = folder / f"point{index}"

        work = partial(
            repair_adapter,
            task=scene.adapter,
            safety=safety,
            selected=methods.select(rows, point.selection),
            repair=point.repair,
            output=output,
            rows=rows,
            card={"method": point.method},
        )
        ours += seconds(work)[0]
        written = output / "adapter_model.safetensors"
        tensors = {name: tensor.clone() for name, tensor in load_file(written).items()}
        size = written.stat().st_size
        written.unlink()  # so that both write a new file
        floor += seconds(partial(save_file, tensors, written))[0]
        written.unlink()
    detail = (
        f"{1000 * ours / len(grid):.0f} ms against {1000 * floor / len(grid):.0f} ms for {size / 1e6:.0f} MB"
    )
    name = f"a 5x5 sweep of adapters, {len(shapes)} modules, time per adapter"
    return Row(name, f"{ours / floor:.2f}x writing its bytes", "<= 2x", ours <= 2 * floor, detail)


def run(quick: bool) -> list[Row]:
    """All measurements, one after the other."""
    shrink = 8 if quick else 1
    rows: list[Row] = []

    def done(*measured: Row) -> None:
        for row in measured:
            print(f"{row.what}: {row.measured} ({row.detail})", file=sys.stderr, flush=True)
        rows.extend(measured)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        llama2 = make_scene(folder / "llama2", LLAMA2_QV, 4, torch.float16, 8, shrink)
        done(*against_dense(llama2, "Llama-2-7B q and v, 4 layers, fp16 checkpoint, r=8", 30))
        more = make_scene(folder / "more", LLAMA31_ALL, 6, torch.bfloat16, 16, shrink)
        done(sweep(more, folder))
        llama31 = make_scene(folder / "llama31", LLAMA31_ALL, 2, torch.bfloat16, 16, shrink)
        done(memory(llama31, more, (2, 6)))
        done(accuracy(shrink))
        done(*against_dense(llama31, "Llama-3.1-8B all linear, 2 layers, bf16 checkpoint, r=16", 80))
        done(*full_fine_tune(folder / "full", shrink))
    rows.append(Row("GPU, Llama-3.1-8B, all 224 modules", "not run", "", None, "no GPU in this run"))
    return rows


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="every dimension an eighth: a check that it runs"
    )
    parser.add_argument("--output", type=Path, required=True, help="the page to write")
    options = parser.parse_args()
    start = time.perf_counter()
    rows = run(options.quick)
    write_page(options.output, rows, options.quick, time.perf_counter() - start)
    print(options.output.read_text())


if __name__ == "__main__":
    main()
