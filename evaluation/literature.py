"""The literature's numbers, percent, each with where we read it.

They are never mixed with ours without a label.

Sources: seed = the project's own brief; digest = third-party digests of the paper (Djuhera et al. 2025,
SafeMERGE), several agreeing; code = the official repository aladinD/SafeMERGE. None of them was read from
the paper's own tables by us.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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
            seed = (method == "safemerge") or (method == "finetuned" and metric == "utility")
            cells.append(
                Cell("llama3.1-8b", "gsm8k", method, metric, value, "digest, seed" if seed else "digest")
            )
    return cells


CELLS: tuple[Cell, ...] = (
    *_llama31(),
    Cell("llama2-7b", "gsm8k", "finetuned", "utility", 27.37, "seed"),
    Cell("llama2-7b", "gsm8k", "safemerge", "utility", 26.96, "seed"),
    Cell("llama2-7b", "gsm8k", "finetuned", "directharm", 27.80, "seed"),
    Cell("llama2-7b", "gsm8k", "safemerge", "directharm", 7.50, "seed"),
    Cell("qwen2-7b", "gsm8k", "finetuned", "directharm", 25.30, "seed"),
    Cell("qwen2-7b", "gsm8k", "safelora", "directharm", 22.30, "seed"),
    Cell("qwen2-7b", "gsm8k", "safemerge", "directharm", 8.20, "seed"),
    Cell("llama3.1-8b", "pubmedqa", "finetuned", "utility", 78.80, "seed"),
    Cell("llama3.1-8b", "pubmedqa", "safemerge", "utility", 79.00, "seed"),
    Cell("llama3.1-8b", "pubmedqa", "finetuned", "directharm", 23.50, "seed"),
    Cell("llama3.1-8b", "pubmedqa", "safemerge", "directharm", 9.10, "seed"),
    Cell("llama2-7b", "any", "safety LoRA alone, 1000 samples", "directharm", 1.30, "seed"),
    Cell("llama3.1-8b", "any", "safety LoRA alone, 1000 samples", "directharm", 6.30, "seed"),
)

SETTINGS = (
    ("merged modules at tau = 0.7", "28 of 56 (q and v of 28 layers)", "seed"),
    ("merge weights", "[0.8, 0.2]", "seed"),
    ("default tau of the official code", "0.35", "code"),
    ("range named in later notes", "tau 0.6 to 0.8 with alpha about 0.7", "digest"),
    ("safety data sizes", "100, 500, 1000, 2500", "seed"),
    ("judge", "Llama-Guard-3-8B", "digest"),
    (
        "LoRA rank, alpha, learning rate, epochs, decoding, prompts, seeds, full grid",
        "not published where we could read it: ours are choices",
        "-",
    ),
)

METHODS = ("aligned", "finetuned", "safeinstruct", "resta", "safelora", "safemerge")


def against_ours(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per published number with ours (the paper's protocol.

    All prompts) where that model and task was run.
    """
    rows = []
    for cell in CELLS:
        rate = None
        for group in groups:
            if (group["model"], group["task"]) != (cell.model, cell.task):
                continue
            benchmark = group["utility"] if cell.metric == "utility" else cell.metric
            for line in group["paper"]:
                if (
                    line["method"] == cell.method
                    and benchmark in line["rates"]
                    and line["rates"][benchmark]["n"]
                ):
                    rate = rate or line["rates"][benchmark]
        rows.append({**vars(cell), "ours": rate})
    return rows
