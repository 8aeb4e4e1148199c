"""Selective repair of a LoRA adapter: the subspace similarity rho, and adapters merged from it.

Names are loaded on first use, so that reading a similarity table does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.merging.adapters import Adapter, load_adapter
    from pipeline.merging.apply import repair_adapter
    from pipeline.merging.checkpoints import Checkpoint
    from pipeline.merging.export import export_model
    from pipeline.merging.similarity import similarity_table
    from pipeline.merging.table import ModuleRow, read_table, write_table

_HOME = {
    "Adapter": "adapters",
    "load_adapter": "adapters",
    "repair_adapter": "apply",
    "Checkpoint": "checkpoints",
    "export_model": "export",
    "similarity_table": "similarity",
    "ModuleRow": "table",
    "read_table": "table",
    "write_table": "table",
}
__all__ = [
    "Adapter",
    "Checkpoint",
    "ModuleRow",
    "export_model",
    "load_adapter",
    "read_table",
    "repair_adapter",
    "similarity_table",
    "write_table",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
