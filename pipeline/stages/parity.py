"""Does transformers, with the same adapter, agree with what the engine wrote? A few prompts per adapter, one forward each.

A greedy engine writes the likeliest token. So under transformers + PEFT every token that it wrote should be the likeliest
too, up to rounding; how far it falls short is the gap. An adapter that the engine did not apply, a wrong scaling or another
prompt than the recorded one opens gaps of nats at many tokens. The mean counts no gap above `CLIP`, so that no single token
decides.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from data.chat import prompt_ids
from data.schema import Completion, spread
from pipeline import artifacts
from pipeline.artifacts import Parity, model_folder
from pipeline.progress import report
from pipeline.stage_settings import Parity as Settings
from pipeline.worker import Job

CLIP = 1.0  # nats


def summary(found: list[float]) -> Parity:
    """The gaps (nats) of all tokens of an adapter; each one clipped to `CLIP` in the mean."""
    return Parity(
        tokens=len(found),
        mean_gap=math.fsum(min(gap, CLIP) for gap in found) / len(found) if found else 0.0,
        largest_gap=max(found, default=0.0),
        likeliest=sum(gap == 0 for gap in found),
    )


def gaps(model: Any, tokenizer: Any, rows: list[Completion], system: str | None) -> list[float]:
    """Per generated token: log-probability of the likeliest token minus that of the one written (nats, >= 0).

    rows: completions of one adapter. Their completion_ids are what the engine wrote; its text, tokenised anew, may come
    out as others.
    """
    import torch

    found: list[float] = []
    for row in rows:
        head = prompt_ids(tokenizer, row.prompt, system=system)
        tail = row.completion_ids
        if not tail:
            continue
        with torch.inference_mode():
            ids = torch.tensor([head + tail], device=model.device)
            logits = model(input_ids=ids).logits[0, len(head) - 1 : -1].float()
        written = logits.gather(1, torch.tensor(tail, device=model.device)[:, None])[:, 0]
        found += (logits.max(-1).values - written).tolist()
    return found


def _with_adapter(bare: Any, adapter: Path) -> Any:
    """The model with the adapter beside its weights; without drawing initial values for what is loaded at once."""
    from peft import PeftModel

    return PeftModel.from_pretrained(bare, str(adapter), low_cpu_mem_usage=True).eval()


def run(jobs: list[Job]) -> None:
    """One parity.json per adapter; the model is loaded once."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    settings = Settings(**jobs[0].settings)
    folder = model_folder(jobs[0].inputs["model"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, settings.dtype)
    bare = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
    for position, job in enumerate(jobs):
        with job.finishing():
            adapter: Path | None = job.inputs.get("adapter")
            model = bare if adapter is None else _with_adapter(bare, adapter)
            found: list[float] = []
            for role in sorted(role for role in job.inputs if role.startswith("replies/")):
                rows = spread(
                    artifacts.completions(job.inputs[role]),
                    settings.prompts_per_benchmark,
                )
                found += gaps(model, tokenizer, rows, settings.system_prompt)
            bare = bare if adapter is None else model.unload()
            summary(found).write(job.output)
        report(position + 1, len(jobs), job.name)
