"""Measured peaks of memory against the model of `pipeline.memory`, on random models of many shapes.

python -m tests.scale.peaks --output docs/scale/memory.json

Each case runs the product's own stage in a process of its own: the largest resident memory, less what the process held
before it loaded a model. Rows and replies have the full length, so that the model's worst case is what happens.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline import memory
from pipeline.shape import Shape

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
QV = ["q_proj", "v_proj"]
Stage = Literal["train", "transformers", "vllm"]


def shape(*sizes: int, tied: bool = False, bias: bool = False) -> Shape:
    """hidden, intermediate, layers, heads, heads of keys and values, head_dim, vocabulary."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    names += ("num_key_value_heads", "head_dim", "vocab_size")
    return Shape(**dict(zip(names, sizes, strict=True)), tie_word_embeddings=tied, attention_bias=bias)


SHAPES = {
    "miniature of Llama-2": shape(256, 512, 2, 2, 2, 128, 32000),
    "miniature of Llama-3.1": shape(256, 512, 2, 2, 1, 128, 128256),
    "miniature of Qwen-2": shape(256, 512, 2, 2, 1, 128, 152064, bias=True),
    "wide": shape(1024, 2816, 4, 8, 2, 128, 8192),
    "many heads": shape(512, 1408, 4, 16, 16, 32, 8192),
    "deep": shape(512, 1408, 16, 8, 4, 64, 8192, tied=True),
    "tiny": shape(128, 384, 4, 4, 4, 32, 1024, tied=True),
    "smollm2-135m": shape(576, 1536, 30, 9, 3, 64, 49152, tied=True),
}


@dataclass(frozen=True)
class Case:
    """One stage on one shape."""

    shape: str
    stage: Stage
    dtype: str
    rows: int  # at once
    length: int  # of each, the answer included
    new: int = 64  # tokens of the answer
    rank: int = 8
    targets: tuple[str, ...] = tuple(QV)
    checkpointing: bool = False
    devices: int = 1
    parallel: str = "ddp"

    def fit(self) -> memory.Fit:
        return memory.Fit(
            self.rank,
            list(self.targets),
            self.dtype,
            self.rows,
            self.length,
            self.checkpointing,
            self.devices,
            self.parallel,
            self.new / self.length,
        )

    def need(self) -> memory.Need:
        its = SHAPES[self.shape]
        if self.stage == "train":
            return memory.training(its, self.fit(), "cpu")
        if self.stage == "transformers":
            lora = 4 * its.lora_parameters(self.rank, list(self.targets))
            return memory.transformers(
                its,
                dtype=self.dtype,
                batch=self.rows,
                prompt=self.length - self.new,
                new=self.new,
                lora=lora,
            )
        return memory.engine(
            its,
            dtype=self.dtype,
            longest=self.length,
            sequences=self.rows,
            loras=1,
            rank=self.rank,
            device="cpu",
        )


CASES = (
    Case("miniature of Llama-2", "train", "float32", 8, 256),
    Case("miniature of Llama-3.1", "train", "bfloat16", 4, 256),
    Case("miniature of Qwen-2", "train", "bfloat16", 4, 256),
    Case("wide", "train", "float32", 4, 512, rank=16, targets=tuple(ALL)),
    Case("many heads", "train", "float32", 2, 1024, rank=16, targets=tuple(ALL)),
    Case("deep", "train", "float32", 8, 512, checkpointing=True),
    Case("deep", "train", "float32", 4, 512, rank=16, targets=tuple(ALL)),
    Case("tiny", "train", "float32", 8, 384, targets=tuple(ALL)),
    Case("smollm2-135m", "train", "bfloat16", 4, 256, rank=16, targets=tuple(ALL)),
    Case("wide", "train", "float32", 2, 512, rank=16, targets=tuple(ALL), devices=2),
    Case("wide", "train", "float32", 2, 512, rank=16, targets=tuple(ALL), devices=2, parallel="fsdp"),
    Case("miniature of Llama-2", "transformers", "float32", 8, 512),
    Case("miniature of Llama-3.1", "transformers", "bfloat16", 8, 512),
    Case("wide", "transformers", "float32", 8, 512),
    Case("many heads", "transformers", "float32", 8, 1024),
    Case("smollm2-135m", "transformers", "bfloat16", 8, 256),
    Case("miniature of Llama-2", "vllm", "float32", 8, 512),
    Case("miniature of Llama-3.1", "vllm", "bfloat16", 8, 512),
    Case("smollm2-135m", "vllm", "bfloat16", 8, 256),
)


def build(its: Shape, folder: Path) -> None:
    """A random model of that shape, with a tokenizer of bytes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    from tests.finished_run import tokenizer

    sizes = its.model_dump(exclude={"attention_bias"}) | {"max_position_embeddings": 4096}
    torch.manual_seed(0)
    kinds = (Qwen2Config, Qwen2ForCausalLM) if its.attention_bias else (LlamaConfig, LlamaForCausalLM)
    model = kinds[1](kinds[0](**sizes))
    assert sum(p.numel() for p in model.parameters()) == its.parameters
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def error_of(case: Case, row: dict[str, Any]) -> float:
    """By what share the model is off the measured peak; of several ranks, whose start is not seen, the libraries count."""
    need = case.need()
    said = need.total if case.devices > 1 else need.model
    return said / (row["peak"] - row["before"]) - 1


def one(case: Case, folder: Path) -> dict[str, int]:
    """Carry a case out here: bytes before a model was loaded, and the peak after it."""
    from tests.scale import stages_in_one_process as stages

    return getattr(stages, case.stage)(case, folder)  # type: ignore[no-any-return]


def measured(case: Case, folder: Path) -> dict[str, int]:
    """The same in a process of its own."""
    order = folder / "case.json"
    order.write_text(json.dumps(asdict(case)))
    done = subprocess.run(
        [sys.executable, "-m", "tests.scale.peaks", "--case", str(order)],
        capture_output=True,
        text=True,
        env=os.environ,
    )
    if done.returncode:
        raise RuntimeError(f"{case}: exit {done.returncode}\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def every(cases: tuple[Case, ...]) -> list[dict[str, Any]]:
    """All cases, one after the other."""
    rows = []
    with tempfile.TemporaryDirectory() as root:
        for name in dict.fromkeys(case.shape for case in cases):
            folder = Path(root) / name.replace(" ", "-")
            build(SHAPES[name], folder / "model")
            for case in (its for its in cases if its.shape == name):
                its = measured(case, folder)
                need = case.need()
                rows.append({"case": asdict(case), "parameters": SHAPES[name].parameters, **its})
                print(
                    f"{case.shape}, {case.stage}, {case.devices}: model {need.model / 2**20:.0f} MiB, measured "
                    f"{(its['peak'] - its['before']) / 2**20:.0f}, libraries {its['before'] / 2**20:.0f}",
                    file=sys.stderr,
                    flush=True,
                )
    return rows


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="the JSON file to write")
    parser.add_argument("--only", default="", help="cases whose shape or stage contains this")
    parser.add_argument("--case", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        its = json.loads(options.case.read_text())
        print(json.dumps(one(Case(**{**its, "targets": tuple(its["targets"])}), options.case.parent)))
        return
    from pipeline import provenance

    rows = every(tuple(c for c in CASES if options.only in f"{c.shape} {c.stage} {c.parallel}{c.devices}"))
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        found = {"cases": rows, **provenance.collect()}
        options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
