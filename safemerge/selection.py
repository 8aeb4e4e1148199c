"""What a sweep point is: a selection of modules and a repair of them. Imports no torch."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from safemerge.errors import UserError
from safemerge.table import ModuleRow

#: A number, a quantile of the adapter's own rho such as "q0.5", or a multiple of each module's null such as "n1.5".
Tau = float | str
Rule = Literal[
    "none",
    "all",
    "below",
    "at_most",
    "lowest",
    "lowest_ties",
    "lowest_null",
    "lowest_ratio",
    "highest",
    "random",
    "kinds",
    "layers",
]
Kind = Literal["keep", "drop", "blend", "project", "add", "scale"]
Source = Literal["none", "task", "safeinstruct"]
Safety = Literal["safety", "safety_apart"]
TAUS: tuple[Tau, ...] = (0.3, 0.5, 0.7, "q0.25", "q0.5", "q0.75")  # thresholds worth looking at first
COMBINES = ("exact", "peft_linear", "dare_linear", "ties", "dare_ties")
WITH_DENSITY = ("dare_linear", "ties", "dare_ties")
DRAWING = ("dare_linear", "dare_ties")  # those that drop entries at random
PROJECTORS = ("official", "orthogonal")


@dataclass(frozen=True)
class Selection:
    """Which modules are repaired.

    rule `below` takes rho < tau; with tau = "n1.5", rho < 1.5 times the module's null. `lowest`, `highest`, `lowest_null`
    (which does not look at rho), `lowest_ratio` (rho over its null) and `random` take k modules: k is a number, a fraction
    of all modules (a float in [0, 1]), or, where k is None, as many as lie below tau. `kinds` and `layers` take names.

    `at_most` and `lowest_ties` are SafeLoRA's (IBM/SafeLoRA, model.py): rho rounded to 5 decimals is at most tau, or
    at most the k-th smallest, so that ties may take more than k. A module with V = 0 is never taken.
    """

    rule: Rule = "none"
    tau: Tau | None = None
    k: int | float | None = None
    seed: int = 0
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Repair:
    """What is done to a selected module; see safemerge.arithmetic for the equations.

    density: DARE's or TIES's kept share (for `add`: DARE on the task update). rank: SVD truncation of the
    repaired modules, None for none. safety_weight: of the safety update in an exact blend, None for 1 - alpha.
    projector: of `project`; energy: the share of V that `orthogonal` keeps, None for all.
    """

    kind: Kind = "keep"
    alpha: float | None = None
    safety_weight: float | None = None
    gamma: float | None = None
    combine: str = "exact"
    density: float | None = None
    seed: int = 0
    rank: int | None = None
    projector: str = "official"
    energy: float | None = None

    @property
    def weights(self) -> tuple[float, float]:
        """Of the task and the safety update in a blend."""
        alpha = 1.0 if self.alpha is None else self.alpha
        return alpha, 1 - alpha if self.safety_weight is None else self.safety_weight


@dataclass(frozen=True)
class Again:
    """A second fine-tuning, of the adapter as it then is, on `limit` rows (None: all) of a data set.

    learning_rate, epochs: None for the first fine-tuning's. renewed: whether the point's own repair follows once more.
    """

    dataset: str
    limit: int | None = None
    learning_rate: float | None = None
    epochs: float | None = None
    renewed: bool = False


@dataclass(frozen=True)
class Point:
    """One adapter to evaluate: where it starts from, what is selected, how that is repaired.

    safety: the role of the adapter that is blended in; `safety_apart` was trained from another seed than the task's.
    system_prompt: what the model is asked with, in place of its own. again: what happens to the adapter after the repair.
    """

    method: str
    label: str
    adapter: Source = "task"
    selection: Selection = field(default_factory=Selection)
    repair: Repair = field(default_factory=Repair)
    safety: Safety = "safety"
    system_prompt: str | None = None
    again: Again | None = None

    @property
    def tau(self) -> Tau | None:
        """tau as it was set; resolve_tau gives the number."""
        return self.selection.tau

    @property
    def tau_setting(self) -> str | None:
        return None if self.selection.tau is None else show(self.selection.tau)

    @property
    def alpha(self) -> float | None:
        return self.repair.alpha

    @property
    def combine(self) -> str:
        return self.repair.combine

    @property
    def needs_safety(self) -> bool:
        """True if the repair blends in a safety adapter."""
        return self.repair.kind in ("blend", "add")


def resolve_tau(tau: Tau, rhos: Sequence[float] | Sequence[ModuleRow]) -> float:
    """The number that a tau setting stands for; "q0.5" is numpy.quantile(rhos, 0.5), linear interpolation.

    rhos: of the modules that have one; of table rows, the degenerate ones are left out. With the strict
    rho < tau, q0.5 takes half of them, q0 none, and q1 all but the largest. "n1.5" is 1.5: a bound on rho over its null.
    """
    setting = check_tau(tau)
    if not isinstance(setting, str):
        return setting
    if of_null(setting):
        return float(setting[1:])
    values = [row.rho if isinstance(row, ModuleRow) else row for row in rhos if not _is_degenerate(row)]
    if not values:
        raise UserError(f"tau={tau} is a quantile of rho, but no module has a defined rho; use a number")
    return float(np.quantile(np.asarray(values, dtype=np.float64), float(setting[1:])))


def of_null(tau: object) -> bool:
    """Whether a tau is in units of the null, so that its number bounds rho/null and not rho."""
    return isinstance(tau, str) and tau.startswith("n")


def _is_degenerate(row: float | ModuleRow) -> bool:
    return isinstance(row, ModuleRow) and row.degenerate


def select(rows: Sequence[ModuleRow], selection: Selection) -> tuple[str, ...]:
    """The names of the modules that a selection takes, sorted. Ties in rho are broken by name."""
    chosen: Iterable[ModuleRow]
    if selection.rule == "none":
        chosen = ()
    elif selection.rule == "all":
        chosen = rows
    elif selection.rule == "below":
        chosen = _below(rows, selection)
    elif selection.rule in ("at_most", "lowest_ties"):
        chosen = _of_safelora(rows, selection)
    elif selection.rule == "kinds":
        _known("kind", selection.names, {row.kind for row in rows})
        chosen = (row for row in rows if row.kind in selection.names)
    elif selection.rule == "layers":
        wanted = {layer for name in selection.names for layer in layer_range(name)}
        _known("layer", wanted, {row.layer for row in rows if row.layer is not None})
        chosen = (row for row in rows if row.layer in wanted)
    else:
        size = len(_below(rows, selection)) if selection.k is None else _size(selection.k, len(rows))
        if selection.rule == "random":
            by_name = sorted(rows, key=lambda row: row.module)
            chosen = random.Random(selection.seed).sample(by_name, size)
        else:
            if selection.rule in ("lowest_null", "lowest_ratio"):
                _with_null(rows, f"selection {selection.rule}")
            by = _ORDERS[selection.rule]
            chosen = sorted(rows, key=lambda row: (by(row), row.module))[:size]
    return tuple(sorted(row.module for row in chosen))


_ORDERS: dict[str, Callable[[ModuleRow], float]] = {
    "lowest": lambda row: row.rho,
    "highest": lambda row: -row.rho,
    "lowest_null": lambda row: row.null,
    "lowest_ratio": lambda row: row.ratio,
}


def _with_null(rows: Iterable[ModuleRow], wanted_by: str) -> None:
    """UserError if the table is of a version that did not know nulls."""
    if any(math.isnan(row.null) for row in rows):
        raise UserError(
            f"{wanted_by} needs the null of rho, which this similarity table lacks; measure the adapter again, with "
            "`safemerge inspect` or the similarity stage"
        )


def _measured(tau: Tau, rows: Sequence[ModuleRow]) -> Callable[[ModuleRow], float]:
    """What tau bounds: rho, or rho in units of its null."""
    if not of_null(tau):
        return lambda row: row.rho
    _with_null(rows, f"tau={tau}")
    return lambda row: row.ratio


def _below(rows: Sequence[ModuleRow], selection: Selection) -> list[ModuleRow]:
    if selection.tau is None:
        raise UserError(f"selection {selection.rule} needs tau or k; set one")
    tau, measured = resolve_tau(selection.tau, rows), _measured(selection.tau, rows)
    return [row for row in rows if measured(row) < tau]


def _of_safelora(rows: Sequence[ModuleRow], selection: Selection) -> list[ModuleRow]:
    """By rho as the official code sees it, rounded to 5 decimals; a quantile is one of the rounded values, too.

    Where V = 0 its cosine is 0/0, which no comparison selects and which sorts behind all numbers.
    """
    measured: Callable[[ModuleRow], float] = _ORDERS["lowest"]
    rounded = [replace(row, rho=float(np.round(row.rho, 5))) for row in rows if "zero_v" not in row.flags]
    if selection.rule == "at_most" and selection.tau is not None:
        limit, measured = resolve_tau(selection.tau, rounded), _measured(selection.tau, rounded)
    elif selection.rule == "lowest_ties" and selection.k is not None:
        smallest = sorted(row.rho for row in rounded)[: _size(selection.k, len(rows))]
        limit = smallest[-1] if smallest else -math.inf
    else:
        raise UserError(
            f"selection {selection.rule} needs {'tau' if selection.rule == 'at_most' else 'k'}; set it"
        )
    return [row for row in rounded if measured(row) <= limit]


def _size(k: int | float, modules: int) -> int:
    size = round(k * modules) if isinstance(k, float) else k
    if size > modules:
        raise UserError(f"k={k} is more than the adapter's {modules} modules; use at most {modules}")
    return size


def _known(what: str, wanted: Iterable[object], present: set[Any]) -> None:
    missing = sorted(str(name) for name in wanted if name not in present)
    if missing:
        raise UserError(
            f"the adapter has no {what} {', '.join(missing)}; it has {', '.join(map(str, sorted(present)))}"
        )


def show(value: object) -> str:
    """A setting as it appears in labels: 0.70 and 0.7 are one."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def number_in(name: str, value: object, low: float, high: float) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not low <= number <= high:
        bounds = f"at least {low:g}" if high == math.inf else f"in [{low:g}, {high:g}]"
        raise UserError(f"{name}={value} is not a number {bounds}")
    return number


def check_tau(value: object) -> Tau:
    if isinstance(value, str) and value.startswith("q"):
        return f"q{number_in(f'tau={value}: quantile', value[1:], 0, 1):g}"
    if isinstance(value, str) and value.startswith("n") and value != "nan":
        return f"n{number_in(f'tau={value}: multiple of the null', value[1:], 0, math.inf):g}"
    try:
        return number_in("tau", value, 0, math.inf)
    except UserError:
        raise UserError(
            f"tau={value} is neither a number of at least 0 nor a quantile q0 to q1 nor a multiple of the null such as n1.5"
        ) from None


def layer_range(name: str) -> range:
    first, _, last = name.partition("-")
    if not first.isdigit() or not (last or first).isdigit():
        raise UserError(f"layers={name} is neither a block number nor a range such as 10-15")
    return range(int(first), int(last or first) + 1)
