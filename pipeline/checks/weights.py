"""Are there updates in the adapters, and did the measure that selects modules mean something?"""

from __future__ import annotations

from evaluation.run_file import Check
from pipeline import artifacts, grid, plan
from pipeline.checks.rule import blind_to, outcome
from pipeline.store import Store
from safemerge.errors import UserError


@blind_to("An update that is there and wrong: too large, too small, or of another adapter.")
def adapters_change_weights(x: plan.Experiment, store: Store, candidates: list[grid.Candidate]) -> Check:
    """Every adapter moves some weight: B A is not zero, and finite."""
    from safemerge.adapters import load_adapter

    failed, affects, seen = [], [], 0
    for c in candidates:
        if c.adapter is None:
            continue
        seen += 1
        try:
            modules = load_adapter(store.path(c.adapter)).modules.values()
            moved = any(bool((m.a != 0).any()) and bool((m.b != 0).any()) for m in modules)
            problem = "" if moved else "all its updates are zero"
        except UserError as error:
            problem = str(error)
        if problem:
            failed.append(f"{c.point.label}: {problem}")
            affects.append(c.point.label)
    return outcome("adapters change weights", failed, f"all {seen} adapters do", affects=affects)


@blind_to("A rho that is defined and says little, because V is of low rank or hardly more than rounding.")
def defined_rho(x: plan.Experiment, store: Store, candidates: list[grid.Candidate]) -> Check:
    """Modules without a defined rho (V or the update is zero) count as 0.0; they are named."""
    if not store.has(x.similarity):
        return Check(name="rho is defined", status="pass", detail="no method needs it")
    rows = artifacts.similarity(store.path(x.similarity))
    odd = [row.module for row in rows if row.degenerate]
    return outcome("rho is defined", odd, f"in all {len(rows)} modules", status="warn")
