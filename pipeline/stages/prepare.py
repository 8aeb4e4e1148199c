"""Models as folders that transformers and vLLM load, and data as JSONL rows."""

from __future__ import annotations

import functools
import importlib.util
import json
from pathlib import Path
from typing import Any

from data import loading, schema
from pipeline.progress import report
from pipeline.worker import Job
from safemerge.errors import UserError


def model_folder(artifact: Path) -> str:
    """Where the model of a prepared artifact lies: in it, or (hub models) in the hub's own cache."""
    pointer = artifact / "model.json"
    return str(json.loads(pointer.read_text())["path"]) if pointer.exists() else str(artifact)


def from_hub(settings: dict[str, Any], output: Path) -> None:
    """Fetch a pinned snapshot into the hub's cache and write down where it is and which commit it was."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    name, revision = settings["id"], settings.get("revision")
    try:
        path = snapshot_download(
            name, revision=revision, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.model"]
        )
    except GatedRepoError as error:
        raise UserError(f"{name} is gated: accept its licence on the hub and set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"{name} is not on the hub, or HF_TOKEN may not read it") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise UserError(
            f"cannot fetch {name}@{revision} from the hub ({type(error).__name__}): check the network"
        ) from error
    (output / "model.json").write_text(json.dumps({"path": path, "id": name, "commit": Path(path).name}))


def from_gguf(settings: dict[str, Any], output: Path) -> None:
    """Dequantise a packaged GGUF into float32 safetensors, with its tokenizer and chat template."""
    from unittest import mock

    import gguf
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    spec = importlib.util.find_spec(settings["package"])
    if spec is None or spec.origin is None:
        raise UserError(
            f"the Python package {settings['package']} with the model's weights is missing: run `make setup`"
        )
    folder, name = str(Path(spec.origin).parent), settings["file"]
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


def probe(job: Job) -> None:
    """Fit the head of a probe judge on the labelled pairs and set its threshold on half of the calibration pairs."""
    from dataclasses import replace

    from evaluation.judges import calibrated_threshold, tuning_half
    from evaluation.probe import Head, Reader, depth_of
    from pipeline.config import locate

    settings = job.settings
    folder = model_folder(job.inputs["model"])
    layers, length = depth_of(folder, settings["depth"]), settings["reply_tokens"]
    reader = Reader(folder, layers, settings["dtype"])
    pairs = schema.read_jsonl(job.inputs["pairs"] / "rows.jsonl")
    tuning = tuning_half(schema.read_jsonl(job.inputs["calibration"] / "rows.jsonl"))
    texts = [(row["prompt"], row["response"]) for row in [*pairs, *tuning]]
    features = reader.features(texts, length, lambda done, total: report(done, total, "labelled pairs"))
    unsafe = [row["label"] == "unsafe" for row in pairs]
    fit = locate(settings["target"])
    head: Head = fit(features[: len(pairs)], unsafe, layers=layers, reply_tokens=length, c=settings["c"])
    threshold = settings["threshold"]
    if threshold == "calibrated":
        p = head.p_unsafe(features[len(pairs) :])
        labelled = [row["label"] == "unsafe" for row in tuning]
        threshold = calibrated_threshold(list(zip(p.tolist(), labelled, strict=True)))
    replace(head, threshold=threshold).save(job.output / "head.npz")
    (job.output / "threshold.json").write_text(json.dumps({"threshold": threshold}) + "\n")


def rows(job: Job) -> None:
    """Training examples, evaluation items or labelled pairs, as JSONL."""
    settings = job.settings
    if settings["what"] == "guard":
        found = loading.guard_rows(settings["split"])
        chosen = schema.spread(found, settings.get("limit") or len(found))
        schema.write_jsonl(job.output / "rows.jsonl", chosen)
    elif settings["what"] == "training":
        examples = loading.training(
            settings["dataset"], source=job.speed["source"], limit=settings["limit"], part=settings["part"]
        )
        schema.write_jsonl(job.output / "rows.jsonl", examples)
    else:
        items = loading.items(settings["dataset"], source=job.speed["source"], limit=settings["limit"])
        schema.write_jsonl(job.output / "rows.jsonl", items)


def run(jobs: list[Job]) -> None:
    """Make every job's artifact."""
    for job in jobs:
        with job.finishing():
            if job.settings["what"] == "merged":
                merged(job.inputs, job.output)
            elif job.settings["what"] == "probe":
                probe(job)
            elif job.settings["what"] != "model":
                rows(job)
            elif job.settings["kind"] == "hub":
                from_hub(job.settings, job.output)
            elif job.settings["kind"] == "gguf":
                from_gguf(job.settings, job.output)
            elif job.settings["kind"] == "local":
                (job.output / "model.json").write_text(json.dumps({"path": job.settings["path"]}))
            else:
                from pipeline.stages.scratch import pretrain

                pretrain(job.settings, job.output)
