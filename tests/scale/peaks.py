"""Measured peaks of memory against the model of `pipeline.memory`, on random models of many shapes.

python -m tests.scale.peaks --output docs/scale/memory.json

Each case runs the product's own stage in a process of its own, and its peak is the most that torch had allocated at once;
of several ranks, the largest resident memory of one. (Resident memory is no measure of tensors: the C library keeps what is
freed, up to as much again as was in use.) Rows and replies have the full length, so that the worst case is what happens.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pipeline import memory, provenance
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
            return memory.training(its, self.fit(), "cpu", stored="float16")
        if self.stage == "transformers":
            lora = 4 * its.lora_parameters(self.rank, list(self.targets))
            return memory.transformers(
                its,
                dtype=self.dtype,
                batch=self.rows,
                prompt=self.length - self.new,
                new=self.new,
                lora=lora,
                stored="float16",
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
    Case("tiny", "train", "float32", 8, 384, targets=tuple(ALL)),
    Case("wide", "train", "float32", 2, 256, rank=16, targets=tuple(ALL)),
    Case("many heads", "train", "float32", 1, 768, rank=16, targets=tuple(ALL)),
    Case("deep", "train", "float32", 2, 256, rank=16, targets=tuple(ALL)),
    Case("deep", "train", "float32", 4, 256, checkpointing=True),
    Case("smollm2-135m", "train", "bfloat16", 2, 256, rank=16, targets=tuple(ALL)),
    Case("wide", "train", "float32", 1, 256, rank=16, targets=tuple(ALL), devices=2),
    Case("wide", "train", "float32", 1, 256, rank=16, targets=tuple(ALL), devices=2, parallel="fsdp"),
    Case("miniature of Llama-2", "transformers", "float32", 8, 512, new=16),
    Case("miniature of Llama-3.1", "transformers", "bfloat16", 8, 512, new=16),
    Case("wide", "transformers", "float32", 4, 512, new=16),
    Case("many heads", "transformers", "float32", 4, 768, new=16),
    Case("smollm2-135m", "transformers", "bfloat16", 4, 256, new=16),
    Case("miniature of Llama-2", "vllm", "float32", 8, 512, new=16),
    Case("miniature of Llama-3.1", "vllm", "bfloat16", 8, 512, new=16),
    Case("smollm2-135m", "vllm", "bfloat16", 8, 256, new=16),
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
    # In a format that no case computes in: weights that are mapped from a file, as they are, torch would not count.
    model.to(torch.float16).save_pretrained(folder, max_shard_size="50MB")
    tokenizer().save_pretrained(folder)


def error_of(case: Case, row: dict[str, Any]) -> float:
    """By what share the model is off the measured peak; of several ranks, libraries are in both."""
    return compared(case, row) / row["peak"] - 1


def compared(case: Case, row: dict[str, Any]) -> int:
    """What the model says of what was measured. Weights that were loaded by other threads are not in torch's count, nor
    are those of layers that vLLM has packed anew for a CPU."""
    need, its = case.need(), SHAPES[case.shape]
    if case.stage == "vllm":
        read = its.vocab_size * its.hidden_size * (1 if its.tie_word_embeddings else 2)
        return need.model - memory.BYTES[case.dtype] * (its.parameters - read)
    if case.devices > 1:
        return need.total
    return need.model if row.get("weights") else need.model - need.terms["weights"]


def forked(work: Callable[[], object]) -> Any:
    """What a child of this process makes of it: the libraries are imported once, and each child starts from there."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        code = 1
        try:
            with os.fdopen(theirs, "w") as stream:
                json.dump(work(), stream)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(theirs)
    with os.fdopen(ours) as stream:
        said = stream.read()
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("a case failed; its traceback is above")
    return json.loads(said)


def every(cases: tuple[Case, ...], output: Path) -> None:
    """All cases, one after the other; each is written down at once, in the place of an earlier measurement of it."""
    from tests.scale import stages_in_one_process as stages

    with tempfile.TemporaryDirectory() as root:
        for case in sorted(
            cases, key=lambda its: its.stage == "vllm"
        ):  # whose libraries the others must not hold
            stages.libraries(case.stage)
            folder = Path(root) / case.shape.replace(" ", "-")
            if not folder.exists():
                forked(partial(build, SHAPES[case.shape], folder / "model"))
            its = forked(partial(getattr(stages, case.stage), case, folder))
            row = {"case": asdict(case), "parameters": SHAPES[case.shape].parameters, **its}
            need, seen = case.need(), its["peak"]
            print(
                f"{case.shape}, {case.stage}, {case.devices}: model {need.model / 2**20:.0f} MiB, measured "
                f"{seen / 2**20:.0f} ({error_of(case, row):+.0%}), libraries {its['before'] / 2**20:.0f}",
                file=sys.stderr,
                flush=True,
            )
            keep(row, output)


def keep(row: dict[str, Any], output: Path) -> None:
    """Put a measurement among those that are there, in the order of `CASES`."""
    old = json.loads(output.read_text())["cases"] if output.exists() else []
    known = {json.dumps(its["case"]): its for its in [*old, json.loads(json.dumps(row))]}
    order = [json.dumps(json.loads(json.dumps(asdict(case)))) for case in CASES]
    rows = [known[name] for name in order if name in known]
    output.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"cases": rows, **provenance.collect()}, indent=1)
    output.write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument(
        "--missing", action="store_true", help="only cases that the file has no measurement of"
    )
    parser.add_argument("--only", default="", help="cases whose shape or stage contains this")
    options = parser.parse_args()
    chosen = [c for c in CASES if options.only in f"{c.shape}/{c.stage}/{c.parallel}{c.devices}"]
    if options.missing and options.output.exists():
        known = [json.dumps(row["case"]) for row in json.loads(options.output.read_text())["cases"]]
        chosen = [c for c in chosen if json.dumps(asdict(c)) not in known]
    every(tuple(chosen), options.output)


if __name__ == "__main__":
    main()
