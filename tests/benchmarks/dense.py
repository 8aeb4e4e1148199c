"""The official SafeMERGE algorithm, written anew for comparison: C and dW as matrices, in float32."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from safemerge.adapters import Adapter, Lora
from safemerge.checkpoints import Checkpoint


def dense_rho(v: Tensor, module: Lora) -> float:
    """cos(dW, C dW) with C = V V^T / ||V||_F (d_out x d_out) and dW = s B A built, in v's dtype."""
    c = v @ v.T / v.norm()
    delta = module.scaling * (module.b.to(v.dtype) @ module.a.to(v.dtype))
    projected = c @ delta
    return float(torch.nn.functional.cosine_similarity(delta.flatten(), projected.flatten(), dim=0))


def dense_table(base: Path, aligned: Path, adapter: Adapter) -> dict[str, float]:
    """rho by the dense formula for every module; reads the weights as ours does, one pair at a time."""
    models = Checkpoint(base), Checkpoint(aligned)
    return {
        name: dense_rho(models[1].weight(name).float() - models[0].weight(name).float(), module)
        for name, module in adapter.modules.items()
    }


def reference_rho(v: Tensor, module: Lora) -> float:
    """rho in float64, by the trace formula: an independent route to the same number, at any size.

    rho = tr(P^T P G) / sqrt(tr(U^T U G) tr(B^T B G)), with G = A A^T, P = V^T B, U = V P.
    """
    v, a, b = v.double(), module.a.double(), module.b.double()
    g, p = a @ a.T, (b.T.contiguous() @ v).T
    u = v @ p
    inner, outer, size = ((x.T @ x * g).sum() for x in (p, u, b))
    return float(inner / (outer * size).sqrt())


def read_and_subtract(base: Path, aligned: Path, adapter: Adapter) -> None:
    """The floor: V of every module in float32, in two buffers made once, and nothing done with it."""
    models = Checkpoint(base), Checkpoint(aligned)
    shapes = [(module.b.shape[0], module.a.shape[1]) for module in adapter.modules.values()]
    size = max(rows * columns for rows, columns in shapes)
    v, other = torch.empty(size), torch.empty(size)
    for name, (rows, columns) in zip(adapter.modules, shapes, strict=True):
        left, right = v[: rows * columns].view(rows, columns), other[: rows * columns].view(rows, columns)
        left.copy_(models[1].weight(name))
        right.copy_(models[0].weight(name))
        left -= right
