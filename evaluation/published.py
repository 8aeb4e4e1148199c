"""The literature's numbers, percent, each with where we read it.

They are never mixed with ours without a label.

Sources: summary = an unpublished summary of the paper (Djuhera et al. 2025, SafeMERGE) that this repository was written
from; digest = published digests of it by others, several agreeing; code = the official repository aladinD/SafeMERGE. None
of them was read from the paper's own tables by us.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """One published number.

    Model, task, method, metric (utility or a harm benchmark), percent, and its source.
    """

    model: str
    task: str
    method: str
    metric: str
    value: float
    source: str


def _llama31() -> list[Cell]:
    table = {
        "aligned": (73.80, 11.30, 7.90),
        "finetuned": (78.24, 28.30, 14.70),
        "safeinstruct": (77.40, 12.50, 7.20),
        "resta": (74.20, 11.90, 6.90),
        "safelora": (77.90, 15.10, 7.10),
        "safemerge": (78.50, 8.80, 6.30),
    }
    cells = []
    for method, values in table.items():
        for metric, value in zip(("utility", "directharm", "hexphi"), values, strict=True):
            both = method == "safemerge" or (method, metric) == ("finetuned", "utility")
            source = "digest, summary" if both else "digest"
            cells.append(Cell("llama3.1-8b", "gsm8k", method, metric, value, source))
    return cells


CELLS: tuple[Cell, ...] = (
    *_llama31(),
    Cell("llama2-7b", "gsm8k", "finetuned", "utility", 27.37, "summary"),
    Cell("llama2-7b", "gsm8k", "safemerge", "utility", 26.96, "summary"),
    Cell("llama2-7b", "gsm8k", "finetuned", "directharm", 27.80, "summary"),
    Cell("llama2-7b", "gsm8k", "safemerge", "directharm", 7.50, "summary"),
    Cell("qwen2-7b", "gsm8k", "finetuned", "directharm", 25.30, "summary"),
    Cell("qwen2-7b", "gsm8k", "safelora", "directharm", 22.30, "summary"),
    Cell("qwen2-7b", "gsm8k", "safemerge", "directharm", 8.20, "summary"),
    Cell("llama3.1-8b", "pubmedqa", "finetuned", "utility", 78.80, "summary"),
    Cell("llama3.1-8b", "pubmedqa", "safemerge", "utility", 79.00, "summary"),
    Cell("llama3.1-8b", "pubmedqa", "finetuned", "directharm", 23.50, "summary"),
    Cell("llama3.1-8b", "pubmedqa", "safemerge", "directharm", 9.10, "summary"),
    Cell("llama2-7b", "any", "safety LoRA alone, 1000 samples", "directharm", 1.30, "summary"),
    Cell("llama3.1-8b", "any", "safety LoRA alone, 1000 samples", "directharm", 6.30, "summary"),
)

SETTINGS = (
    ("merged modules at tau = 0.7", "28 of 56 (q and v of 28 layers)", "summary"),
    ("merge weights", "[0.8, 0.2]", "summary"),
    ("default tau of the official code", "0.35", "code"),
    ("range named in later notes", "tau 0.6 to 0.8 with alpha about 0.7", "digest"),
    ("safety data sizes", "100, 500, 1000, 2500", "summary"),
    ("judges", "Llama-Guard-3-8B and ShieldGemma-9B", "digest"),
    ("LoRA of adapters that the repository once held", "rank 8, q_proj and v_proj, dropout 0", "code"),
    ("merge type of these", "linear", "code"),
    (
        "LoRA alpha, learning rate, epochs, batch, decoding, prompts, seeds, full grid",
        "not published where we could read it; ours are choices",
        "none",
    ),
)


def published(model: str, task: str, method: str, metric: str) -> float | None:
    """The published percentage of that cell, if there is one."""
    wanted = (model, task, method, metric)
    return next((its.value for its in CELLS if (its.model, its.task, its.method, its.metric) == wanted), None)
