"""SafeMERGE as a library: measure how far a fine-tune left the safety subspace, and repair the modules that did.

    import safemerge

    safemerge.repair(base="meta-llama/Llama-3.1-8B", aligned="meta-llama/Llama-3.1-8B-Instruct",
                     task_adapter="task-lora", safety_adapter="safety-lora", output="repaired-lora", tau=0.7, alpha=0.8)

A full-parameter fine-tune goes in as `task_model` (and `safety_model`), and comes out as a model in its own layout.
`similarity` and `inspect` look before that; `methods` has the other defences, `UserError` is what bad input raises.
Names are loaded on first use, so that reading a similarity table does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safemerge.adapters import Adapter, load_adapter
    from safemerge.api import Inspection, Repaired, inspect, repair, similarity
    from safemerge.apply import repair_adapter
    from safemerge.checkpoints import Checkpoint
    from safemerge.errors import UserError
    from safemerge.export import export_model
    from safemerge.measure import similarity_table
    from safemerge.selection import Point, Repair, Selection
    from safemerge.table import ModuleRow, read_table, write_table

_HOME = {
    "Adapter": "adapters",
    "Checkpoint": "checkpoints",
    "Inspection": "api",
    "ModuleRow": "table",
    "Point": "selection",
    "Repair": "selection",
    "Repaired": "api",
    "Selection": "selection",
    "UserError": "errors",
    "export_model": "export",
    "inspect": "api",
    "load_adapter": "adapters",
    "read_table": "table",
    "repair": "api",
    "repair_adapter": "apply",
    "similarity": "api",
    "similarity_table": "measure",
    "write_table": "table",
}
__all__ = [
    "Adapter",
    "Checkpoint",
    "Inspection",
    "ModuleRow",
    "Point",
    "Repair",
    "Repaired",
    "Selection",
    "UserError",
    "export_model",
    "inspect",
    "load_adapter",
    "read_table",
    "repair",
    "repair_adapter",
    "similarity",
    "similarity_table",
    "write_table",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
