"""The model card of a repaired adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safemerge.adapters import Adapter
from safemerge.selection import Repair, show
from safemerge.table import ModuleRow, live_rhos


def write_card(
    folder: Path,
    task: Adapter,
    safety: Adapter | None,
    repair: Repair,
    info: Mapping[str, Any],
    facts: Mapping[str, Any],
    rows: Sequence[ModuleRow] | None,
) -> None:
    """README.md: front matter for the hub, settings, sources with content hashes, modules, rho, notes.

    facts: further settings by name, such as method, tau and the models' fingerprints; shown as they are.
    """
    settings = {**_settings(repair), **facts}
    lines = [
        "---",
        *_front_matter(task),
        "---",
        "",
        f"# {facts.get('method', repair.kind)}-repaired LoRA adapter",
        "",
    ]
    lines += [
        "A LoRA adapter whose safety was repaired after fine-tuning, without training, by the method below.",
        "An ordinary PEFT folder: one rank for all modules, scaling 1. Check its answers before use:",
        "a repair is meant to lower the rate of harmful answers, and does not bring it to zero.",
        "",
        "| setting | value |",
        "|---|---|",
        *(f"| {name} | {_cell(value)} |" for name, value in settings.items() if value is not None),
        f"| modules repaired | {info['merged_modules']} of {info['modules']} |",
        f"| rank | {info['rank']} |",
    ]
    if info.get("svd_error") is not None:
        lines.append(f"| largest relative SVD error | {info['svd_error']:.3g} |")
    if info.get("shrink") is not None:
        lines.append(
            f"| length of the projected updates, as a share of what it was (median) | {info['shrink']:.2g} |"
        )
    lines += ["", "## Sources", "", "| adapter | from | sha256 of the weights |", "|---|---|---|"]
    lines += [
        f"| {name} | {_cell(adapter.source)} | `{adapter.digest}` |"
        for name, adapter in _sources(task, safety)
    ]
    if rows:
        lines += ["", "## rho", "", *_summary(rows)]
    lines += ["", "## Modules repaired", "", *([f"- {name}" for name in info["selected"]] or ["none"])]
    if info["notes"]:
        lines += ["", "## Notes", "", *(f"- {note}" for note in info["notes"])]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _front_matter(task: Adapter) -> list[str]:
    base = [f"base_model: {task.base}"] if task.base.count("/") == 1 and task.base[0] not in "./~" else []
    return [*base, "library_name: peft", "tags:", "- lora", "- safemerge", "- safety"]


def _settings(repair: Repair) -> dict[str, Any]:
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


def _sources(task: Adapter, safety: Adapter | None) -> list[tuple[str, Adapter]]:
    return [("task", task)] + ([("safety", safety)] if safety else [])


def _summary(rows: Sequence[ModuleRow]) -> list[str]:
    rhos = sorted(live_rhos(rows))
    if not rhos:
        return ["No module has a defined rho."]
    quartiles = [rhos[round(q * (len(rhos) - 1))] for q in (0, 0.25, 0.5, 0.75, 1)]
    words = zip(("min", "25 %", "median", "75 %", "max"), quartiles, strict=True)
    line = ", ".join(f"{word} {value:.4f}" for word, value in words)
    odd = len(rows) - len(rhos)
    return [f"{line} over {len(rhos)} modules (similarity.csv has them all); {odd} without a defined rho."]


def _cell(value: object) -> str:
    return show(value).replace("|", "\\|").replace("\n", " ")
