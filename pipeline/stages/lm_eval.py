"""Tasks of lm-evaluation-harness on adapters: vLLM loads the aligned model once, transformers once per adapter."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evaluation import harness
from evaluation.harness import Score
from pipeline.artifacts import SCORES, model_folder
from pipeline.progress import report
from pipeline.stage_settings import Harness
from pipeline.unkeyed import Tasks
from pipeline.worker import Job
from safemerge.errors import UserError
from safemerge.peft_config import largest_rank

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # vLLM's steps of max_lora_rank


def run(jobs: list[Job]) -> None:
    """One scores.json per job; all share the model and the backend."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UserError(
            f"lm-eval cannot be imported ({error}): pip install --no-deps -r requirements/lm-eval.txt"
        ) from error
    told = jobs[0].beside(Tasks)
    manager = TaskManager(include_path=told.include_path)
    unknown = [job.settings["task"] for job in jobs if not manager.match_tasks([job.settings["task"]])]
    if unknown:
        where = f" or in {told.include_path}" if told.include_path else ""
        raise UserError(f"lm-eval has no task {unknown[0]}{where}: `lm_eval ls tasks` lists what there is")
    models = _vllm(jobs, told) if jobs[0].settings["backend"] == "vllm" else _transformers(jobs, told)
    for position, (job, model) in enumerate(models):
        report(position, len(jobs), job.name)
        with job.finishing():
            its = Harness(**job.settings)
            found = _evaluated(model, its, manager)
            scores = list(scores_of(found, its))
            if not scores:
                raise UserError(f"lm-eval's task {its.task} gives no number for this model")
            harness.write(job.output / SCORES, scores)
            (job.output / "results.json").write_text(json.dumps(found, indent=1, default=str) + "\n")


def _evaluated(model: Any, its: Harness, manager: Any) -> dict[str, Any]:
    """What the harness returns, without its samples."""
    from lm_eval import simple_evaluate

    try:
        found = simple_evaluate(
            model,
            tasks=[its.task],
            num_fewshot=its.fewshot,
            limit=its.limit,
            apply_chat_template=its.chat,
            system_instruction=its.system_prompt if its.chat else None,
            fewshot_as_multiturn=its.chat,
            log_samples=False,
            bootstrap_iters=1000,
            task_manager=manager,
        )
    except (ConnectionError, FileNotFoundError) as error:
        line = " ".join(str(error).split())[:200]
        raise UserError(f"the data of lm-eval's task {its.task} cannot be had here: {line}") from error
    return {k: v for k, v in (found or {}).items() if k not in ("samples", "config")}


def scores_of(found: Mapping[str, Any], its: Harness) -> Iterator[Score]:
    """The metrics of the task itself: those of its parts, where it is a group, stay in results.json."""
    results = found.get("results", {}).get(its.task, {})
    better = found.get("higher_is_better", {}).get(its.task, {})
    for name, value in results.items():
        metric, _, reading = name.partition(",")
        if metric.endswith("_stderr") or not isinstance(value, int | float) or isinstance(value, bool):
            continue
        error = results.get(f"{metric}_stderr,{reading}")
        if not reading:  # `sample_len` and the like describe the task
            continue
        yield Score(
            task=its.task,
            metric=metric,
            filter=reading,
            value=float(value),
            stderr=float(error) if isinstance(error, int | float) else math.nan,
            n=_items(found, its.task),
            limit=its.limit,
            higher_is_better=better.get(metric) is not False,
            version=its.version,
        )


def _items(found: Mapping[str, Any], task: str) -> int:
    """Items that were evaluated: of a group, of all its parts."""
    counts = found.get("n-samples", {})
    parts = found.get("group_subtasks", {}).get(task) or [task]
    return sum(int(counts.get(part, {}).get("effective", 0)) for part in parts)


def _transformers(jobs: Sequence[Job], told: Tasks) -> Iterator[tuple[Job, Any]]:
    """Each job with its model; jobs of one adapter share it."""
    import torch
    from lm_eval.models.huggingface import HFLM

    loaded, model = "", None
    for job in sorted(jobs, key=lambda its: its.adapter_key):
        adapter = job.inputs.get("adapter")
        if model is None or loaded != job.adapter_key:
            model, loaded = None, job.adapter_key
            model = HFLM(
                model_folder(job.inputs["model"]),
                peft=str(adapter) if adapter else None,
                dtype=job.settings["dtype"],
                batch_size=told.batch_size,
                device="cuda" if torch.cuda.is_available() else "cpu",
            )
        yield job, model


def _vllm(jobs: Sequence[Job], told: Tasks) -> Iterator[tuple[Job, Any]]:
    """Each job with the one engine, which serves that job's adapter next."""
    try:
        from lm_eval.models.vllm_causallms import VLLM
        from vllm.lora.request import LoRARequest
    except ImportError as error:
        raise UserError(f"lm-eval's vLLM backend cannot be imported ({error}): give --backend hf") from error
    folders = {job.adapter_key: job.inputs["adapter"] for job in jobs if "adapter" in job.inputs}
    options: dict[str, Any] = {
        "dtype": jobs[0].settings["dtype"],
        "gpu_memory_utilization": told.gpu_memory_utilization,
        "tensor_parallel_size": told.tensor_parallel_size,
        "batch_size": "auto",
    }
    if folders:
        needed = max(largest_rank(folder) for folder in folders.values())
        rank = next((r for r in RANKS if r >= needed), needed)
        options |= {"lora_local_path": str(next(iter(folders.values()))), "max_lora_rank": rank}
    model = VLLM(model_folder(jobs[0].inputs["model"]), **options)
    numbers = {key: number for number, key in enumerate(sorted(folders), 1)}
    for job in sorted(jobs, key=lambda its: its.adapter_key):
        key = job.adapter_key if "adapter" in job.inputs else ""
        # Name and number of the content, so that no cached prefix of another adapter answers for it.
        model.lora_request = LoRARequest(key, numbers[key], str(folders[key])) if key else None
        yield job, model
