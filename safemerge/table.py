"""The similarity table: one row per LoRA module, as dataclasses and as similarity.csv. Imports no torch."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from safemerge.errors import UserError

COLUMNS = (
    "module",
    "layer",
    "kind",
    "rho",
    "null",
    "rho_over_null",
    "norm_task",
    "norm_v",
    "norm_projected",
    "flags",
)
# Execution order inside a transformer block. PEFT visits modules in it, so seeded draws follow it too.
KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# With these, rho is 0/0; the official code takes 0.0 and so do we, but such a row says nothing.
DEGENERATE = frozenset({"zero_v", "zero_update", "zero_projection"})


@dataclass(frozen=True)
class ModuleRow:
    """rho = cos(dW, C dW) of one module; Frobenius norms of dW, V and C dW; flags name what is odd.

    null: E[rho] of an update that knows nothing of V (`safemerge.null`), 0 where V = 0; NaN in a table of a version that
    did not know it.
    """

    module: str
    layer: int | None
    kind: str
    rho: float
    norm_task: float
    norm_v: float
    norm_projected: float
    flags: tuple[str, ...] = ()
    null: float = math.nan

    @property
    def ratio(self) -> float:
        """rho in units of its null; like rho itself, 0.0 where rho is undefined."""
        return 0.0 if self.degenerate else self.rho / self.null

    @property
    def degenerate(self) -> bool:
        """True if rho is undefined for this module and was set to 0.0."""
        return not DEGENERATE.isdisjoint(self.flags)


def layer_of(module: str) -> int | None:
    """The block number in a dotted module name: 3 for model.layers.3.self_attn.q_proj; None without one."""
    match = re.search(r"(?:^|\.)(\d+)(?:\.|$)", module)
    return int(match.group(1)) if match else None


def kind_of(module: str) -> str:
    """The last part of a dotted module name: q_proj for model.layers.3.self_attn.q_proj."""
    return module.rsplit(".", 1)[-1]


def module_order(module: str) -> tuple[int, int, str]:
    """A sort key that puts modules in execution order, block 2 before block 10."""
    layer, kind = layer_of(module), kind_of(module)
    return (1 << 30 if layer is None else layer, KINDS.index(kind) if kind in KINDS else len(KINDS), module)


def write_table(path: Path | str, rows: Iterable[ModuleRow]) -> None:
    """Write similarity.csv; floats read back to the same value, unknown ones are empty."""
    with open(path, "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            layer = "" if row.layer is None else row.layer
            numbers = (row.rho, row.null, row.ratio, row.norm_task, row.norm_v, row.norm_projected)
            texts = ("" if math.isnan(number) else repr(number) for number in numbers)
            writer.writerow((row.module, layer, row.kind, *texts, ";".join(row.flags)))


def read_table(path: Path | str, *, only_known: bool = False) -> list[ModuleRow]:
    """Read similarity.csv back, one without nulls too.

    only_known: leave out modules whose rho is empty; otherwise they are refused, since nothing can be selected by them.

    Raises:
        UserError: it is missing, or is not such a table.
    """
    try:
        with open(path, newline="", encoding="utf-8") as handle:
            records = csv.DictReader(handle)
            return [_row(record) for record in records if record["rho"] or not only_known]
    except FileNotFoundError:
        raise UserError(
            f"no similarity table at {path}; run `safemerge inspect --output` to make one"
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        expected = ",".join(COLUMNS)
        raise UserError(
            f"{path} is not a similarity table ({error}); its columns must be {expected}"
        ) from None


def _row(record: dict[str, str]) -> ModuleRow:
    # As csv has it where a row is longer or shorter than the header.
    if None in record or None in record.values():
        raise ValueError("a row has other cells than the header")
    return ModuleRow(
        module=record["module"],
        layer=int(record["layer"]) if record["layer"] else None,
        kind=record["kind"],
        rho=float(record["rho"]),
        norm_task=float(record["norm_task"]),
        norm_v=float(record["norm_v"]),
        norm_projected=float(record["norm_projected"]),
        flags=tuple(flag for flag in record["flags"].split(";") if flag),
        null=float(record.get("null") or math.nan),
    )


def live_rhos(rows: Sequence[ModuleRow]) -> list[float]:
    """The rho of every module that has one; what a quantile tau is taken over."""
    return [row.rho for row in rows if not row.degenerate]
