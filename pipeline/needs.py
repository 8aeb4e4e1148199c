"""What the stages of an experiment need of each device, by the memory model (`pipeline.memory`). Imports no torch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline import memory
from pipeline.judge_settings import HubJudge, Judge, TrainedJudge
from pipeline.memory import BYTES, Device, Fit, Need
from pipeline.plan import Experiment
from pipeline.precision import LARGE, gpus
from pipeline.settings import LocalMember, ScratchMember
from pipeline.shape import Shape, of_config
from pipeline.steps import ACCUMULATION, CHECKPOINTING, PER_DEVICE, shared

AT_ONCE = 8  # sequences that an engine must hold at least, to be of use
PROMPT = 512  # tokens of a prompt, and of what a guard reads around a reply; a guess on the long side


def device(x: Experiment) -> Device:
    """Where the model is meant to run."""
    return "gpu" if x.config.model.parameters > LARGE or gpus() else "cpu"


def guessed(parameters: float) -> Shape:
    """A shape of Llama's proportions with about that many weights; of a model whose config is not known."""
    for layers in range(1, 200):
        hidden = 128 * layers
        its = Shape(
            hidden_size=hidden,
            intermediate_size=3 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=layers,
            num_key_value_heads=layers,
            head_dim=128,
            vocab_size=64000 if parameters > LARGE else 8000,
        )
        if its.parameters >= parameters:
            break
    return its


def shape_of(x: Experiment) -> tuple[Shape, bool]:
    """The model's shape, and whether it is known or a guess from the number of parameters."""
    model = x.config.model
    if model.shape is not None:
        return model.shape, True
    if isinstance(model.base, ScratchMember):
        sizes = model.base.model_dump(include=set(Shape.model_fields))
        heads = model.base.hidden_size // model.base.num_attention_heads
        return Shape(**sizes, head_dim=heads, tie_word_embeddings=True), True
    for member in (model.aligned, model.base):
        if isinstance(member, LocalMember):
            try:
                return of_config(
                    json.loads((Path(member.path).expanduser() / "config.json").read_text())
                ), True
            except (OSError, ValueError, KeyError):
                break
    return guessed(model.parameters), False


def fit(x: Experiment) -> Fit:
    """How the adapters are trained."""
    train = x.config.train
    args: dict[str, Any] = train.args
    share = shared(args.get(PER_DEVICE, 1), args.get(ACCUMULATION, 1), train.devices)
    targets = train.lora.target_modules
    return Fit(
        rank=train.lora.r,
        targets=targets,
        dtype=x.config.train.dtype,
        rows=share.rows,
        length=args.get("max_length", 1024),
        checkpointing=bool(args.get(CHECKPOINTING, True)),
        devices=train.devices,
        parallel=train.parallel,
    )


def judge_shape(x: Experiment, judge: Judge) -> tuple[Shape, float] | None:
    """Shape and bytes of the weights of a judge that is a language model and runs here; the download may hold more."""
    if isinstance(judge, HubJudge) and not judge.servers:
        size = judge.download_gb * 1e9
        its = judge.shape or guessed(size / 2)
        return its, max(size, 2.0 * its.parameters)
    if isinstance(judge, TrainedJudge):
        its = shape_of(x)[0]
        return its, BYTES.get(x.config.generation.dtype, 2) * its.parameters
    return None


def engines(x: Experiment, sequences: int | None = None) -> dict[str, Need]:
    """vLLM for the policy and for the largest judge, with so many sequences at once (None: as configured)."""
    its, where = x.config.generation, device(x)
    count = its.max_num_seqs if sequences is None else min(sequences, its.max_num_seqs)
    reply = max(map(x.config.reply_limit, x.config.benchmark))
    blends = any(p.repair.kind == "blend" for p in x.points)
    rank = x.config.train.lora.r * (2 if blends else 1)
    found = {}
    common: dict[str, Any] = {"dtype": its.dtype, "parts": its.tensor_parallel_size, "device": where}
    if not its.servers:
        found["generate"] = memory.engine(
            shape_of(x)[0],
            longest=PROMPT + reply,
            sequences=count,
            loras=its.max_loras,
            rank=rank,
            **common,
        )
    judges = [one for judge in x.config.judge.values() if (one := judge_shape(x, judge))]
    if judges:
        largest, size = max(judges, key=lambda pair: pair[1])
        need = memory.engine(largest, longest=2 * PROMPT + reply, sequences=count, **common)
        found["judge"] = Need({**need.terms, "weights": int(size) // its.tensor_parallel_size})
    return found


def needs(x: Experiment) -> dict[str, Need]:
    """The least that each stage needs on each device, by stage."""
    shape = shape_of(x)[0]
    found = {"finetune": memory.training(shape, fit(x), device(x), "bfloat16"), **engines(x, AT_ONCE)}
    if x.config.generation.backend == "transformers":
        lora = 4 * shape.lora_parameters(2 * x.config.train.lora.r, "all")
        new = max(map(x.config.reply_limit, x.config.benchmark))
        found["generate"] = memory.transformers(
            shape,
            dtype=x.config.generation.dtype,
            batch=16,
            prompt=PROMPT,
            new=new,
            lora=lora,
            device=device(x),
            stored="bfloat16",
        )
    found["merge"] = found["similarity"] = memory.merging(shape, "bfloat16")
    return found


def without_checkpointing(x: Experiment) -> Need:
    """What a training would need if its activations were kept."""
    return memory.training(shape_of(x)[0], replace(fit(x), checkpointing=False), device(x))
