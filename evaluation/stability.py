"""Is the selection stable? The modules merged in any two of some finished runs, and the order of their rho.

python -m evaluation.stability RUN RUN... --output FILE.md

RUN is a run.json or the folder that holds one; runs of several seeds count as several. Only tables and run.json are read.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from evaluation.figures.canvas import figure
from evaluation.overlap import chance
from evaluation.run_file import EntryRecord, read_run
from evaluation.tables import Table, markdown
from safemerge.commands import Parser, one_line_errors
from safemerge.errors import UserError
from safemerge.selection import show
from safemerge.table import ModuleRow, read_table

#: Settings that cannot change what is merged, or that the entry itself says.
UNRELATED = (
    "seed",
    "task",
    "model",
    "tracking",
    "store",
    "runs",
    "stages",
    "dry_run",
    "judge",
    "generation",
    "benchmark",
)


@dataclass(frozen=True)
class Member:
    """One (model, task, seed) of a run: its modules, and those that SafeMERGE merges by its setting of tau."""

    record: EntryRecord
    config: Mapping[str, str]  # flat
    modules: dict[str, ModuleRow]
    merged: dict[str, frozenset[str]]


@dataclass(frozen=True)
class PairRow:
    """Two members at one setting of tau, over the modules that both have.

    kendall, kendall_ratio: Kendall's tau-b of rho, and of rho over its null (NaN where a table has none). jaccard: of the
    merged sets; expected, low, high: its mean and central 95 % if as many modules were drawn at random, which makes the
    overlap hypergeometric; p: the chance of an overlap at least as large.
    """

    model: str
    one: str
    other: str
    differs: tuple[str, ...]
    tau: str
    modules: int
    sizes: tuple[int, int]
    shared: int
    jaccard: float
    expected: float
    low: float
    high: float
    p: float
    kendall: float
    kendall_ratio: float


def members(paths: Sequence[Path]) -> list[Member]:
    """The members of all runs that measured rho; one that two runs share is taken once.

    Raises:
        UserError: a run.json or a table cannot be read.
    """
    found: dict[tuple[Path, tuple[str, ...]], Member] = {}
    for given in paths:
        path = given / "run.json" if given.is_dir() else given
        run = read_run(path)
        config = {name: value for name, value in _flat(run.config) if name.split(".")[0] not in UNRELATED}
        for record in run.runs:
            points = [point for point in record.points if point.method == "safemerge" and point.tau_setting]
            if not record.similarity or not points:
                continue
            table = (path.parent / record.similarity).resolve()
            rows = read_table(table)
            merged = {show(point.tau_setting): frozenset(point.selected) for point in points}
            modules = {row.module: row for row in rows if not row.degenerate}
            found.setdefault((table, tuple(sorted(merged))), Member(record, config, modules, merged))
    return list(found.values())


def _flat(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of a config by their dotted names, as text."""
    if isinstance(value, Mapping) and value:
        for key, its in value.items():
            yield from _flat(its, f"{name}.{key}" if name else str(key))
    else:
        yield name, str(value)


def pairs(found: Sequence[Member]) -> list[PairRow]:
    """Every two members of one model, at every setting of tau that both have."""
    return [
        _pair(one, other, tau)
        for one, other in combinations(found, 2)
        if one.record.model == other.record.model and len(one.modules.keys() & other.modules.keys()) > 1
        for tau in one.merged
        if tau in other.merged
    ]


def _pair(one: Member, other: Member, tau: str) -> PairRow:
    from scipy.stats import kendalltau

    common = [name for name in one.modules if name in other.modules]
    a, b = (its.merged[tau] & set(common) for its in (one, other))
    shared = len(a & b)
    orders = []
    for value in ("rho", "ratio"):
        left, right = ([getattr(its.modules[name], value) for name in common] for its in (one, other))
        known = not any(map(math.isnan, (*left, *right)))
        orders.append(float(kendalltau(left, right).statistic) if known else math.nan)
    return PairRow(
        one.record.model,
        _name(one),
        _name(other),
        _differs(one, other),
        tau,
        len(common),
        (len(a), len(b)),
        shared,
        shared / len(a | b) if a | b else math.nan,
        *chance(len(common), len(a), len(b), shared),
        *orders,
    )


def _name(member: Member) -> str:
    return f"{member.record.task}, seed {member.record.seed}"


def _differs(one: Member, other: Member) -> tuple[str, ...]:
    """What sets the two apart: the fields of the entries, then settings."""
    fields = [
        name for name in ("task", "data", "seed") if getattr(one.record, name) != getattr(other.record, name)
    ]
    if one.record.precision != other.record.precision:
        fields.append("precision")
    names = sorted({*one.config, *other.config})
    return (*fields, *(name for name in names if one.config.get(name) != other.config.get(name)))


def table(rows: Sequence[PairRow]) -> Table:
    """A row per pair and setting of tau."""
    found = Table(
        "Overlap of the merged modules, and order of ρ, between runs",
        [
            *("Model", "Runs", "They differ in", "τ", "Merged", "Shared", "Jaccard", "By chance [95 %]", "p"),
            *("Kendall ρ", "Kendall ρ/null"),
        ],
        note=(
            "By chance: the mean Jaccard index, and its central 95 %, of as many modules drawn at random (hypergeometric "
            "overlap); p: of an overlap at least as large, for one pair, unadjusted. Kendall: rank correlation (τ-b) of ρ "
            "over all modules. The null of ρ is a property of the base and the aligned model, so ρ may agree "
            "between runs because of it alone: ρ/null has it taken out."
        ),
    )
    for row in rows:
        more = f", … ({len(row.differs)})" if len(row.differs) > 3 else ""
        found.add(
            row.model,
            f"{row.one} / {row.other}",
            ", ".join(row.differs[:3]) + more or "nothing recorded",
            row.tau,
            f"{row.sizes[0]} / {row.sizes[1]} of {row.modules}",
            str(row.shared),
            f"{row.jaccard:.2f}",
            f"{row.expected:.2f} [{row.low:.2f}, {row.high:.2f}]",
            "< 0.001" if row.p < 0.001 else f"{row.p:.3f}",
            *("–" if math.isnan(value) else f"{value:.2f}" for value in (row.kendall, row.kendall_ratio)),
        )
    return found


def draw(rows: Sequence[PairRow], stem: Path) -> list[Path]:
    """The Jaccard index of every pair beside what chance gives."""
    paths: list[Path] = []
    with figure(7.2, 1.3 + 0.3 * len(rows), paths, stem) as (fig, axes):
        ax = axes[0][0]
        at = range(len(rows))
        ax.hlines(
            at,
            [row.low for row in rows],
            [row.high for row in rows],
            color="#999999",
            linewidth=5,
            label="by chance, 95 %",
        )
        ax.plot([row.jaccard for row in rows], at, "o", color="#0072B2", label="merged by both / by either")
        ax.set_yticks(at, [f"{row.one} / {row.other}, τ = {row.tau}" for row in rows])
        ax.invert_yaxis()
        ax.set_xlim(0, 1)
        ax.set_xlabel("Jaccard index of the merged modules")
        models = ", ".join(dict.fromkeys(row.model for row in rows))
        ax.set_title(f"Stability of the selection ({models})", loc="left", fontsize=10)
        fig.legend(loc="outside lower center", ncols=2, fontsize=8.5)
    return paths


def write_page(paths: Sequence[Path], output: Path) -> list[PairRow]:
    """The table as Markdown in `output`, its figure beside it.

    Raises:
        UserError: there are no two runs to compare.
    """
    rows = pairs(members(paths))
    if not rows:
        raise UserError(
            f"nothing to compare in {', '.join(map(str, paths))}: give finished runs of one model, two seeds or more in "
            "all, with SafeMERGE at a common tau"
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    picture = next(p for p in draw(rows, output.with_suffix("")) if p.suffix == ".png")
    found = table(rows)
    shown = f"![Jaccard index per pair of runs]({picture.name})"
    output.write_text(
        "\n\n".join([f"# {found.title}", markdown(found), found.note, shown]) + "\n", encoding="utf-8"
    )
    return rows


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Exit 0, or 2 with one line on a user error."""
    parser = Parser(
        prog="python -m evaluation.stability",
        description="Which modules do finished runs merge in common, and is that more than chance?",
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, help="run.json, or the folder of one; of any seeds, tasks, settings"
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="the Markdown page; its figure is written beside it"
    )
    options = parser.parse_args(arguments)
    rows = write_page(options.runs, options.output)
    for row in rows:
        pair = f"{row.one} / {row.other}, tau {row.tau}"
        print(f"{pair}: Jaccard {row.jaccard:.2f} (chance {row.expected:.2f}), Kendall {row.kendall:.2f}")
    print(f"page: {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
