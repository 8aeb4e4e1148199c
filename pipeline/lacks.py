"""What this machine lacks for the models of the hub, for the doctor's screen: short, and once where all lack it."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable
from pathlib import Path

from hydra import compose, initialize_config_dir

from pipeline import plan, preflight
from pipeline.config import check
from pipeline.store import Store


def lacking(conf: Path, reachable: bool, without: Container[str]) -> dict[str, list[str]]:
    """For each model but those, what `make reproduce` would ask for, shortened.

    Args:
        conf: the folder of the configs.
        reachable: whether the hub answers, which is not asked again.
    """
    before = os.environ.get("HF_HUB_OFFLINE")
    if not reachable:
        os.environ["HF_HUB_OFFLINE"] = "1"  # asked once already: not again for each model
    try:
        found = {}
        with initialize_config_dir(str(conf), version_base="1.3"):
            for name in sorted(path.stem for path in (conf / "model").glob("*.yaml")):
                if name not in without:
                    x = plan.build(check(compose("config", [f"model={name}"])))
                    lacks = preflight.missing(x, Store(Path(x.config.store)))
                    found[name] = [_short(lack) for lack in lacks]
        return found
    finally:
        os.environ.pop("HF_HUB_OFFLINE", None)
        if before is not None:
            os.environ["HF_HUB_OFFLINE"] = before


def _short(lack: str) -> str:
    """Without names and remedies, which `make plan` gives."""
    for end in (" (", " for the gated", " in /", ", which"):
        lack = lack.partition(end)[0]
    return lack


def said(lacks: dict[str, list[str]]) -> list[str]:
    """What the models lack: first what all of them do, then each group's own; the largest number stands for all."""

    def kind(lack: str) -> str:  # "a GPU with 22 GiB" and one with 24 are of one kind
        return " ".join(word for word in lack.split() if not _is_number(word))

    def size(lack: str) -> list[float]:
        return [float(word) for word in lack.split() if _is_number(word)]

    def largest(kinds: Iterable[str], names: Iterable[str]) -> str:
        of_kind = [[lack for name in names for lack in lacks[name] if kind(lack) == k] for k in kinds]
        return ", ".join(max(each, key=size) for each in of_kind)

    shared = set.intersection(*({kind(lack) for lack in each} for each in lacks.values()))
    rows, groups = [], dict[tuple[str, ...], list[str]]()
    if shared:
        in_order = [k for lack in next(iter(lacks.values())) if (k := kind(lack)) in shared]
        rows.append(f"all lack {largest(in_order, lacks)}")
    for name, each in lacks.items():
        groups.setdefault(tuple(k for lack in each if (k := kind(lack)) not in shared), []).append(name)
    for kinds, names in groups.items():
        verb = ("also " if shared else "") + ("lack" if len(names) > 1 else "lacks")
        if kinds:
            rows.append(f"{', '.join(names)} {verb} {largest(kinds, names)}")
        elif not shared:
            rows.append(f"{', '.join(names)}: all there")
    return rows


def _is_number(word: str) -> bool:
    return word.replace(".", "", 1).isdigit()
