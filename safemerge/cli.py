"""`safemerge`: repair a LoRA adapter or a fine-tuned model, or look at how far it left the safety subspace."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from safemerge.display import progress_bar, show_counts, show_histogram, show_rows
from safemerge.errors import UserError
from safemerge.options import build_parser, build_point
from safemerge.screening import visible
from safemerge.selection import of_null, show

if TYPE_CHECKING:
    from safemerge.api import Inspection, Repaired


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script; returns the exit code."""
    options = build_parser().parse_args(arguments)
    try:
        _repair(options) if options.command == "repair" else _inspect(options)
    except UserError as error:
        print(f"safemerge: {visible(' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("safemerge: interrupted; nothing half-written was left", file=sys.stderr)
        return 130
    return 0


def _repair(options: argparse.Namespace) -> None:
    point = build_point(options)
    if point.needs_safety and not (options.safety_adapter or options.safety_model):
        raise UserError(
            f"--method {options.method} needs --safety-adapter or --safety-model; safelora and scale do without"
        )
    if options.public and not options.push_to_hub:
        raise UserError("--public changes nothing without --push-to-hub ORG/NAME")
    if options.task_model and options.export_model:
        raise UserError(
            f"--export-model {options.export_model} is for an adapter; --output is a full model here"
        )
    for folder in filter(None, (options.output, options.export_model)):
        if folder.exists() and not options.overwrite and (folder.is_file() or any(folder.iterdir())):
            raise UserError(f"{folder} exists; remove it, give another, or pass --overwrite")
    import torch

    from safemerge import export_model, repair

    with progress_bar("rho") as progress:
        found = repair(
            base=options.base,
            aligned=options.aligned,
            task_adapter=options.task_adapter,
            task_model=options.task_model,
            safety_adapter=options.safety_adapter,
            safety_model=options.safety_model,
            lm_head=options.lm_head,
            output=options.output,
            point=point,
            dtype=getattr(torch, options.dtype) if options.dtype else None,
            same_model=options.same_model,
            device=options.device,
            overwrite=options.overwrite,
            progress=progress,
        )
    _say_result(found)
    if options.export_model:
        with progress_bar("shards") as progress:
            export_model(
                aligned=options.aligned,
                adapter=options.output,
                output=options.export_model,
                same_model=options.same_model,
                overwrite=options.overwrite,
                progress=progress,
            )
        print(f"full model: {options.export_model}")
    if options.push_to_hub:
        from safemerge.export import push_to_hub

        print(f"pushed: {push_to_hub(options.output, options.push_to_hub, private=not options.public)}")


def _say_result(found: Repaired) -> None:
    unit = " of rho's null" if of_null(found.point.tau) else ""
    threshold = "" if found.tau is None else f", tau={found.tau:.4g}{unit}"
    rank = "" if found.rank is None else f", rank {found.rank}"
    print(f"{found.point.label}{threshold}: repaired {len(found.selected)} of {found.modules} modules{rank}")
    if found.svd_error is not None:
        print(f"largest relative SVD error: {found.svd_error:.3g}")
    if found.shrink is not None:
        print(f"the projection multiplied the length of its updates by {found.shrink:.2g} (median)")
    if found.rounding is not None:
        print(f"rounding to the stored dtype changed the repaired updates by {found.rounding:.2g} (median)")
    for note in [*found.notes, *_selects_all_or_none(found)]:
        print(f"note: {visible(note)}", file=sys.stderr)
    print(f"{'model' if found.rank is None else 'adapter'}: {found.output}")


def _selects_all_or_none(found: Repaired) -> list[str]:
    """What to know of a threshold that does not divide the modules."""
    if found.tau is None or 0 < len(found.selected) < found.modules:
        return []
    what = "every module is" if found.selected else "no module is"
    return [
        f"with this tau {what} repaired; inspect counts the modules for others, and q0.5 selects half of them"
    ]


def _inspect(options: argparse.Namespace) -> None:
    if options.output and options.output.exists():
        raise UserError(f"{options.output} exists; remove it or give another --output")
    from safemerge import inspect, write_table

    with progress_bar("rho") as progress:
        found = inspect(
            base=options.base,
            aligned=options.aligned,
            task_adapter=options.task_adapter,
            task_model=options.task_model,
            lm_head=options.lm_head,
            taus=options.tau,
            same_model=options.same_model,
            device=options.device,
            progress=progress,
        )
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        write_table(options.output, found.rows)
    if options.json:
        print(json.dumps(_as_json(found), indent=1, allow_nan=False))
        return
    show_rows(found.rows)
    show_histogram(found.rows)
    show_counts(found.rows, list(found.merged))
    for note in found.notes:
        print(f"note: {visible(note)}", file=sys.stderr)


def _as_json(found: Inspection) -> dict[str, Any]:
    """rho, its null and the rest of every module, rho_over_null null where rho is undefined; merged modules by tau."""
    modules = [{**asdict(row), "rho_over_null": None if row.degenerate else row.ratio} for row in found.rows]
    return {"modules": modules, "merged": {show(tau): count for tau, count in found.merged.items()}}


if __name__ == "__main__":
    sys.exit(main())
