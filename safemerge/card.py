"""The model card of a repaired adapter or model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from safemerge.changes import Changes
from safemerge.selection import Repair, show
from safemerge.table import ModuleRow, live_rhos


@dataclass(frozen=True)
class Source:
    """What was merged: an adapter or a whole model, where it came from, and a hash that tells it apart.

    digest: sha256 of an adapter's weights, or `Checkpoint.fingerprint` of a model. base: the model that the result belongs
    to, on the hub: the one that an adapter says it was trained on, or the fine-tuned model itself; empty if unknown.
    """

    role: str
    what: Literal["LoRA adapter", "model"]
    reference: str
    digest: str
    base: str = ""


_WORDS = {
    "LoRA adapter": (
        "A LoRA adapter whose safety was repaired after fine-tuning, without training, by the method below.",
        "An ordinary PEFT folder: one rank for all modules, scaling 1. Check its answers before use:",
    ),
    "model": (
        "A fine-tuned model whose safety was repaired after fine-tuning, without training, by the method below.",
        "Files, dtypes and all weights not named below are those of the fine-tuned model. Check its answers before use:",
    ),
}


def write_card(
    folder: Path,
    task: Source,
    safety: Source | None,
    repair: Repair,
    done: Changes,
    facts: Mapping[str, object],
    rows: Sequence[ModuleRow] | None,
    kept: Sequence[str] = (),
) -> None:
    """README.md: front matter for the hub, settings, sources with content hashes, modules, rho, notes.

    facts: further settings by name, such as method, tau and the models' fingerprints; shown as they are. kept: what of a
    model is neither measured nor repaired, a line each.
    """
    settings = {**_settings(repair), **facts}
    lines = [
        "---",
        *_front_matter(task),
        "---",
        "",
        f"# {facts.get('method', repair.kind)}-repaired {task.what}",
        "",
    ]
    lines += [
        *_WORDS[task.what],
        "a repair is meant to lower the rate of harmful answers, and does not bring it to zero.",
        "",
        "| setting | value |",
        "|---|---|",
        *(f"| {name} | {_cell(value)} |" for name, value in settings.items() if value is not None),
        f"| modules repaired | {done.merged_modules} of {done.modules} |",
        *([f"| rank | {done.rank} |"] if done.rank is not None else []),
    ]
    if done.svd_error is not None:
        lines.append(f"| largest relative SVD error | {done.svd_error:.3g} |")
    if done.shrink is not None:
        lines.append(
            f"| length of the projected updates, as a share of what it was (median) | {done.shrink:.2g} |"
        )
    if done.rounding is not None:
        lines.append(
            f"| rounding to the stored dtype, as a share of the repaired updates (median) | {done.rounding:.2g} |"
        )
    adapters = task.what == "LoRA adapter"
    head = "| adapter | from | sha256 of the weights |" if adapters else "| what | from | fingerprint |"
    lines += ["", "## Sources", "", head, "|---|---|---|"]
    lines += [
        f"| {source.role}{'' if adapters else f' {source.what}'} | {_cell(source.reference)} | `{source.digest}` |"
        for source in filter(None, (task, safety))
    ]
    if rows:
        lines += ["", "## rho", "", *_summary(rows)]
    lines += ["", "## Modules repaired", "", *([f"- {name}" for name in done.selected] or ["none"])]
    if kept:
        lines += [
            "",
            "## Neither measured nor repaired, kept as fine-tuned",
            "",
            *(f"- {line}" for line in kept),
        ]
    if done.notes:
        lines += ["", "## Notes", "", *(f"- {note}" for note in done.notes)]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _front_matter(task: Source) -> list[str]:
    base = [f"base_model: {task.base}"] if task.base.count("/") == 1 and task.base[0] not in "./~" else []
    library, tags = ("peft", ["- lora"]) if task.what == "LoRA adapter" else ("transformers", [])
    return [*base, f"library_name: {library}", "tags:", *tags, "- safemerge", "- safety"]


def _settings(repair: Repair) -> dict[str, object]:
    seeded = repair.density is not None
    return {
        "repair": repair.kind,
        "alpha": repair.alpha,
        "gamma": repair.gamma,
        "combine": repair.combine if repair.kind == "blend" else None,
        "density": repair.density,
        "seed": repair.seed if seeded else None,
        "truncated to rank": repair.rank,
        "projector": repair.projector if repair.kind == "project" else None,
        "energy": repair.energy,
    }


def _summary(rows: Sequence[ModuleRow]) -> list[str]:
    rhos = live_rhos(rows)
    if not rhos:
        return ["No module has a defined rho."]
    quartiles = np.quantile(rhos, (0, 0.25, 0.5, 0.75, 1))  # as a tau such as q0.5 is taken
    words = zip(("min", "25 %", "median", "75 %", "max"), quartiles, strict=True)
    line = ", ".join(f"{word} {value:.4f}" for word, value in words)
    odd = len(rows) - len(rhos)
    return [f"{line} over {len(rhos)} modules (similarity.csv has them all); {odd} without a defined rho."]


def _cell(value: object) -> str:
    return show(value).replace("|", "\\|").replace("\n", " ")
