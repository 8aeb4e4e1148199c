"""Models as folders that transformers and vLLM load, and data as JSONL rows."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from data import loading, schema
from pipeline import artifacts
from pipeline.artifacts import HEAD, MODEL, ROWS, model_folder
from pipeline.content import package_file
from pipeline.progress import report
from pipeline.stage_settings import (
    BenchmarkItems,
    GgufModel,
    HubModel,
    LabelledPairs,
    LocalModel,
    MergedModel,
    ProbeHead,
    ScratchModel,
    Settings,
    TrainingRows,
    of_prepare,
)
from pipeline.unkeyed import Folder, Origin
from pipeline.worker import Job
from safemerge import hub, hub_model
from safemerge.errors import UserError
from safemerge.files import weight_map


def from_hub(settings: HubModel, output: Path) -> None:
    """Fetch a pinned snapshot into the hub's cache and write down where it is and which commit it was."""
    path = hub_model.fetched(hub.Repo(settings.id, settings.revision))
    weight_map(str(path))  # two sets of weights are refused now, and not after the training
    (output / MODEL).write_text(json.dumps({"path": str(path), "id": settings.id, "commit": path.name}))


def from_gguf(settings: GgufModel, output: Path) -> None:
    """Dequantise a packaged GGUF into float32 safetensors, with its tokenizer and chat template."""
    from unittest import mock

    import gguf
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    path = package_file(settings.package, settings.file)
    if path is None:
        raise UserError(
            f"the Python package {settings.package} with the model's weights is missing: run `make setup`"
        )
    folder, name = str(path.parent), path.name
    # transformers indexes the file anew for the tokenizer, the config and the weights, and makes the same table of tensor
    # names for each of the model's 397 submodules: 20 s instead of 10.
    reader, names = functools.cache(gguf.GGUFReader), functools.cache(gguf.get_tensor_name_map)
    with mock.patch.multiple(gguf, GGUFReader=reader, get_tensor_name_map=names):
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
        loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    # A plain Llama without the GGUF's quantization_config, which would make every later load try to dequantise again.
    config = {k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"}
    with torch.device("meta"):  # no initial values for what is loaded at once
        model = LlamaForCausalLM(LlamaConfig(**config))
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.generation_config = loaded.generation_config
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)


def merged(inputs: dict[str, Path], output: Path) -> None:
    """A LoRA folded into its model, kept in float32: bfloat16 would bury V = W_aligned - W_base in rounding."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = model_folder(inputs["model"])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(inputs["adapter"])).merge_and_unload()
    model.save_pretrained(output)
    AutoTokenizer.from_pretrained(folder).save_pretrained(output)


def probe(job: Job, settings: ProbeHead) -> None:
    """Fit the head of a probe judge on the training pairs and set its threshold on the tuning pairs."""
    from dataclasses import replace

    from evaluation.judges import calibrated_threshold
    from evaluation.probe import Head, Reader, depth_of
    from pipeline.config import locate

    folder = model_folder(job.inputs["model"])
    layers, length = depth_of(folder, settings.depth), settings.reply_tokens
    reader = Reader(folder, layers, settings.dtype)
    pairs, tuning = (artifacts.labelled_pairs(job.inputs[role]) for role in ("pairs", "tuning"))
    texts = [(row.prompt, row.response) for row in [*pairs, *tuning]]
    features = reader.features(texts, length, lambda done, total: report(done, total, "labelled pairs"))
    unsafe = [row.label == "unsafe" for row in pairs]
    fit = locate(settings.target)
    head: Head = fit(features[: len(pairs)], unsafe, layers=layers, reply_tokens=length, c=settings.c)
    if settings.threshold == "calibrated":
        p = head.p_unsafe(features[len(pairs) :])
        labels = [row.label == "unsafe" for row in tuning]
        threshold = calibrated_threshold(list(zip(p.tolist(), labels, strict=True)))
    else:
        threshold = float(settings.threshold)
    replace(head, threshold=threshold).save(job.output / HEAD)


def rows(job: Job, settings: TrainingRows | BenchmarkItems | LabelledPairs) -> None:
    """Training examples, evaluation items or labelled pairs, as JSONL."""
    path = job.output / ROWS
    match settings:
        case LabelledPairs():
            found = loading.guard_rows(settings.split)
            pairs: list[schema.GuardRow] = schema.spread(found, settings.limit or len(found))
            schema.write_jsonl(path, pairs)
        case TrainingRows():
            source, limit = job.beside(Origin).source, settings.limit
            examples = loading.training(settings.dataset, source=source, limit=limit, part=settings.part)
            schema.write_jsonl(path, examples)
        case BenchmarkItems():
            source = job.beside(Origin).source
            items = loading.items(
                settings.dataset, source=source, limit=settings.limit, selecting=settings.selecting
            )
            schema.write_jsonl(path, items)


def make(job: Job, settings: Settings) -> None:
    """Write one artifact."""
    match settings:
        case MergedModel():
            merged(job.inputs, job.output)
        case ProbeHead():
            probe(job, settings)
        case HubModel():
            from_hub(settings, job.output)
        case GgufModel():
            from_gguf(settings, job.output)
        case LocalModel():
            (job.output / MODEL).write_text(
                json.dumps({"path": job.beside(Folder).path, "content": settings.content})
            )
        case ScratchModel():
            from pipeline.stages.scratch import pretrain

            pretrain(settings, job.output)
        case TrainingRows() | BenchmarkItems() | LabelledPairs():
            rows(job, settings)


def run(jobs: list[Job]) -> None:
    """Make every job's artifact."""
    for job in jobs:
        with job.finishing():
            make(job, of_prepare(job.settings))
