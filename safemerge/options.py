"""What the command `safemerge` takes, and the sweep point that its options describe."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from safemerge import controls, methods
from safemerge.commands import Parser
from safemerge.errors import UserError
from safemerge.selection import COMBINES, PROJECTORS, TAUS, Point, show

_DESCRIPTION = """\
Repair the safety of a LoRA adapter, or of a full fine-tune, without training.

SafeMERGE measures, for each module, the cosine rho between its update dW and the part of dW that lies in
the safety subspace V = W_aligned - W_base. Modules with rho < tau are blended with a safety LoRA:
alpha*dW_task + (1-alpha)*dW_safety. The rest is left alone. Models and adapters are folders or hub ids
(org/name, org/name/folder, org/name@revision); nothing but the changed layers' weights is read. Of a full
fine-tune, dW = W_task - W_aligned, and the result is a model in the layout of the fine-tuned one."""

_EXAMPLES = """\
examples:
  safemerge inspect --base meta-llama/Llama-3.1-8B --aligned meta-llama/Llama-3.1-8B-Instruct \\
      --task-adapter ./task-lora --tau 0.5 0.7 q0.5
  safemerge repair --base meta-llama/Llama-3.1-8B --aligned meta-llama/Llama-3.1-8B-Instruct \\
      --task-adapter ./task-lora --safety-adapter ./safety-lora --tau 0.7 --alpha 0.8 --output ./repaired-lora
  safemerge repair --base meta-llama/Llama-3.1-8B --aligned meta-llama/Llama-3.1-8B-Instruct \\
      --task-model ./task-full --safety-model ./safety-full --tau q0.5 --alpha 0.8 --output ./repaired-model

exit codes: 0 done, 2 bad input (one line on stderr says what and what to do), 130 interrupted"""

_METHOD_HELP = """\
safemerge: blend modules below tau; safelora: project those at most at tau; resta: add gamma*dW_safety to all;
full: blend all; scale: alpha*dW_task for all; random, highest, null, ratio: controls, blending as many as lie below tau,
drawn, of highest rho, of lowest null of rho, of lowest rho over its null
(default: %(default)s)"""
_TAU_HELP = """\
threshold on rho: a number; a quantile of this adapter's rho such as q0.5, which merges half of the modules; or a
multiple of each module's null such as n1.5: rho below 1.5 times that of an update that knows nothing of V
(default: %(default)s)"""
_COMBINE_HELP = """\
exact: alpha*dW_task + (1-alpha)*dW_safety, at the sum of the ranks; the others are PEFT's, merging A and B
apart (peft_linear is what the official SafeMERGE code does) and need equal ranks (default: %(default)s)"""

_SAME_HELP = """\
the adapters record another name of the aligned model; mirrors, quantised copies and renamed ones are known without it"""
_PROJECTOR_HELP = """\
of safelora. official: the authors' C = V V^T/|V|, which also shrinks the updates, often a hundredfold;
orthogonal: onto the leading directions of V (default: %(default)s)"""

_BLEND = ("alpha", "combine", "density", "seed", "rank")
_RANKED = ("tau", "k", "alpha", "combine", "density")
#: Each method with the options that it reads.
READ = {
    "safemerge": ("tau", *_BLEND),
    "safelora": ("tau", "k", "projector", "energy"),
    "resta": ("gamma", "density", "seed", "rank"),
    "full": _BLEND,
    "scale": ("alpha",),
    "random": (*_RANKED, "seed"),
    "highest": _RANKED,
    "null": _RANKED,
    "ratio": _RANKED,
}
METHODS = tuple(READ)
DEFAULTS: dict[str, Any] = {
    "tau": str(methods.TAU),
    "k": None,
    "alpha": methods.ALPHA,
    "gamma": methods.GAMMA,
    "combine": "exact",
    "density": None,
    "projector": "official",
    "energy": None,
    "rank": None,
    "seed": 0,
}


def build_parser() -> argparse.ArgumentParser:
    """The command line, with its help."""
    parser = Parser(
        "safemerge",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="{repair,inspect}", required=True, dest="command")
    repair = commands.add_parser(
        "repair",
        help="write a repaired adapter or model",
        description="Write a repaired adapter, an ordinary PEFT folder, or a repaired model in the layout of the "
        "fine-tuned one; with a model card and similarity.csv.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_sources(repair)
    _add_repair(repair)
    inspect = commands.add_parser(
        "inspect",
        help="show rho of every module, and how many modules each tau would merge",
        description="Show rho of every module, their histogram, and how many modules each tau would merge.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_sources(inspect)
    inspect.add_argument(
        "--tau",
        nargs="+",
        default=[show(tau) for tau in TAUS],
        help="thresholds to count for: numbers, quantiles of rho, multiples of its null (default: %(default)s)",
    )
    inspect.add_argument(
        "--json", action="store_true", help="print the table and the counts as JSON instead of text"
    )
    inspect.add_argument("--output", type=Path, metavar="CSV", help="also write the table there, as CSV")
    return parser


def _add_sources(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("models and adapters (folders or hub ids)").add_argument
    add("--base", required=True, metavar="MODEL", help="the pretrained model, before alignment")
    add(
        "--aligned",
        required=True,
        metavar="MODEL",
        help="its chat version, on which the adapters were trained",
    )
    either = parser.add_mutually_exclusive_group(required=True).add_argument
    either("--task-adapter", metavar="LORA", help="the fine-tuned LoRA to repair")
    either("--task-model", metavar="MODEL", help="instead, the full fine-tune to repair, in safetensors")
    parser.add_argument(
        "--lm-head", action="store_true", help="of a full fine-tune, measure (and repair) the output head too"
    )
    add("--same-model", action="store_true", help=_SAME_HELP)
    parser.add_argument(
        "--device", default="cpu", help="where to compute: cpu, cuda, cuda:1 (default: %(default)s)"
    )


def _add_repair(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    either = parser.add_mutually_exclusive_group().add_argument
    either(
        "--safety-adapter", metavar="LORA", help="the LoRA trained on refusals; safelora and scale need none"
    )
    either(
        "--safety-model", metavar="MODEL", help="instead, beside --task-model, a full fine-tune on refusals"
    )
    add("--output", required=True, type=Path, metavar="DIR", help="the folder to write; must not exist yet")
    add("--overwrite", action="store_true", help="replace the output if it exists")
    add = parser.add_argument_group("method").add_argument
    add("--method", choices=METHODS, default="safemerge", help=_METHOD_HELP)
    add("--tau", help=_TAU_HELP)
    add("--k", help="instead of tau, for safelora and controls: how many modules, or a share such as 0.5")
    add("--alpha", type=float, help="task adapter's weight, in [0, 1] (default: %(default)s)")
    add("--gamma", type=float, help="safety adapter's weight in resta (default: %(default)s)")
    add("--combine", choices=COMBINES, help=_COMBINE_HELP)
    add(
        "--density",
        type=float,
        help="share of weights kept by dare_linear, ties, dare_ties, and by resta's DARE on the task adapter",
    )
    add("--projector", choices=PROJECTORS, help=_PROJECTOR_HELP)
    add(
        "--energy",
        type=float,
        help=f"share of |V|^2 that the orthogonal projector's directions hold (default: {methods.ENERGY})",
    )
    add("--rank", type=int, help="truncate repaired modules to this rank by SVD; the error is reported")
    add("--seed", type=int, help="of DARE and of random (default: %(default)s)")
    parser.set_defaults(**DEFAULTS)
    add = parser.add_argument_group("output").add_argument
    dtypes = ("float32", "bfloat16", "float16")
    add("--dtype", choices=dtypes, help="of the weights (default: the task adapter's)")
    add(
        "--export-model",
        type=Path,
        metavar="DIR",
        help="also write the full model, with the adapter merged in",
    )
    add("--push-to-hub", metavar="ORG/NAME", help="also upload the result there (private if new)")
    add("--public", action="store_true", help="with --push-to-hub: make a new repository public")


def build_point(options: argparse.Namespace) -> Point:
    """The one sweep point that the options describe.

    Raises:
        UserError: one of them is out of range, or changes nothing with this method.
    """
    for name, usual in DEFAULTS.items():
        value = getattr(options, name)
        if value != usual and name not in READ[options.method]:
            read = ", ".join(f"--{its}" for its in READ[options.method])
            raise UserError(
                f"--{name} {value} changes nothing with --method {options.method}, which reads {read}"
            )
    if options.k is not None and options.tau != DEFAULTS["tau"]:
        raise UserError(f"--tau {options.tau} changes nothing beside --k {options.k}; leave one out")
    k = None if options.k is None else _count(options.k)
    by_size: dict[str, Any] = {"k": k} if k is not None else {}
    blend: dict[str, Any] = {"alpha": options.alpha, "combine": options.combine}
    drawn = {"density": options.density, "seed": options.seed, "rank": options.rank}
    chosen: dict[str, Any] = by_size or {"like": options.tau}
    if options.method == "safemerge":
        points = methods.safemerge(tau=options.tau, **blend, **drawn)
    elif options.method == "full":
        points = methods.full(**blend, **drawn)
    elif options.method == "safelora":
        size = by_size or {"tau": options.tau}
        points = methods.safelora(**size, projector=options.projector, energy=options.energy)
    elif options.method == "resta":
        points = methods.resta(
            gamma=options.gamma, dare_density=options.density, seed=options.seed, rank=options.rank
        )
    elif options.method == "scale":
        points = methods.scale(alpha=options.alpha)
    elif options.method == "random":
        points = controls.random_k(**chosen, **blend, density=options.density, seed=options.seed)
    else:
        by = "highest" if options.method == "highest" else f"lowest_{options.method}"
        points = controls.ranked_k(by=by, **chosen, **blend, density=options.density)
    return points[0]


def _count(text: str) -> int | float:
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        raise UserError(f"--k {text} is neither a whole number nor a share in [0, 1]") from None
