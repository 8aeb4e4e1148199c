"""Experiments that are planned but not run: composed configs, and stores filled with pretended artifacts."""

from __future__ import annotations

from pathlib import Path

from hydra import compose

from data.dataset import Source
from pipeline import grid, plan
from pipeline.artifacts import SIMILARITY
from pipeline.config import check
from pipeline.store import Step, Store
from safemerge.table import ModuleRow, write_table


def experiment(*overrides: str, model: str = "tiny") -> plan.Experiment:
    """The tiny one has a judge that is trained: what depends on it can then be looked at."""
    judge = ["judge=[guard,refusal]"] if model == "tiny" else []
    return plan.build(check(compose("config", [f"model={model}", *judge, *overrides])))


def fill(store: Store, step: Step) -> Path:
    """Pretend that a step was made."""
    store.partial(step).mkdir(parents=True)
    store.commit(step, {})
    return store.path(step)


def with_similarity(x: plan.Experiment, store: Store, rhos: list[float]) -> list[grid.Candidate]:
    rows = [
        ModuleRow(
            f"model.layers.{i}.self_attn.q_proj", i, "q_proj", rho, 1.0, 1.0, 1.0, null=(1 + i % 3) / 10
        )
        for i, rho in enumerate(rhos)
    ]
    write_table(fill(store, x.similarity) / SIMILARITY, rows)
    return grid.candidates(x, store)


def local(**files: Path) -> Source:
    """Data sets that each lie in a file of their own."""
    return {
        "source": "local",
        "root": None,
        "datasets": {name: {"file": str(path)} for name, path in files.items()},
    }  # type: ignore[typeddict-item]
