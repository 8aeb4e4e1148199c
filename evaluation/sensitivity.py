"""Is there damage to repair, and do the repairs keep their order, as the fine-tuning's settings change?

python -m evaluation.sensitivity RUN RUN... --output FILE.md
python -m evaluation.sensitivity RUN RUN... --page docs/sensitivity.md

RUN is a run.json or the folder that holds one, as `experiment=sensitivity` makes them; runs of several seeds go together.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation.attack import LEVELS, Sweep, frontier, levels, orders, sweeps
from evaluation.figures.sensitivity import draw
from evaluation.readme import END, START, replaced
from evaluation.sections import p_text, points_text
from evaluation.tables import Table, markdown, percent, rate_text
from safemerge.commands import Parser, one_line_errors


def settings_table(sweep: Sweep) -> Table:
    """A row per setting: the damage, and what each row leaves of harm and of utility."""
    names = list(dict.fromkeys(cell.name for s in sweep.settings for cell in s.cells))
    table = Table(
        f"Harm / utility over the settings of the fine-tuning, % ({sweep.harm} / {sweep.utility})",
        ["Fine-tuning", "Seeds", "Damage, points [95 %]", *names],
        note=(
            "Damage: harm of the fine-tuned minus the aligned model; marked where its interval lies above zero, so that "
            "there is something to repair. Rows are those of the settings' own main tables: selected on "
            "the development half, shown on the test half."
        ),
    )
    for setting in sweep.settings:
        its = setting.damage
        damage = (
            f"{points_text(its.difference)} [{points_text(its.low)}, {points_text(its.high)}]" if its else "–"
        )
        cells = {
            cell.name: f"{percent(cell.harm.value)} / {percent(cell.utility.value)}" for cell in setting.cells
        }
        table.add(
            setting.name,
            ", ".join(map(str, setting.seeds)),
            (damage, its.difference if its else math.nan),
            *(cells.get(name, "–") for name in names),
        )
        if setting.damaged:
            table.marked.add(len(table.rows) - 1)
    aligned = [cell for s in sweep.settings for cell in s.cells if cell.method == "aligned"]
    if len({(percent(cell.harm.value), percent(cell.utility.value)) for cell in aligned}) > 1:
        table.note += (
            " The aligned model is not the same in all settings: they changed its training too (as the rank does), and "
            "damage and repair are then those of another model."
        )
    return table


def orders_table(sweep: Sweep) -> Table:
    """Kendall's tau of the repairs' harm between every two settings."""
    table = Table(
        "Is the order of the repairs by harm stable?",
        ["Fine-tuning", "Fine-tuning", "Damage in both", "Repairs", "Kendall's τ", "p"],
        note=(
            "τ-b of the harm that each repair leaves, over the repairs that both settings have; 1: the same order. Where "
            "there is no damage in one of them, repairs have nothing to be ordered by but noise. p: for one pair. "
            "The order is of rates with intervals; it is no test of any two repairs."
        ),
    )
    rows = orders(sweep)
    for row in rows:
        both = row.one.damaged and row.other.damaged
        unknown = math.isnan(row.kendall)
        table.add(
            row.one.name,
            row.other.name,
            "yes" if both else "no",
            str(row.repairs),
            "–" if unknown else f"{row.kendall:.2f}",
            "–" if unknown else p_text(row.p),
        )
    told = [r.kendall for r in rows if r.one.damaged and r.other.damaged and not math.isnan(r.kendall)]
    if told:
        mean = math.fsum(told) / len(told)
        table.note += f" Pairs with damage in both: {len(told)}, mean {mean:.2f}, least {min(told):.2f}."
    return table


def frontier_table(sweep: Sweep) -> Table:
    """The least harm of each row at matched utility, over all settings."""
    wanted = levels(sweep)
    heads = [f"≥ {percent(u)} ({level:.0%} of the gain)" for u, level in zip(wanted, LEVELS, strict=False)]
    table = Table(
        f"Harm at matched utility, over all settings, % ({sweep.harm}; columns: {sweep.utility})",
        ["Row", *heads],
        note=(
            "Of each row, the setting of lowest harm among those that keep the utility, both on the development half; "
            "shown is its harm on the test half [95 % interval], and the setting. A repair is worth its trouble where it "
            "leaves less harm than a milder fine-tuning of the same utility does: compare with the fine-tuned row. The "
            "gain is that of the strongest fine-tuning over the aligned model."
        ),
    )
    rows = frontier(sweep)
    if not all(row.known for row in rows):
        table.note += (
            " –: not tuned, so it did not answer the development half, and nothing can be chosen for it."
        )
    for row in rows:
        cells: list[tuple[str, float]] = []
        for its in row.cells:
            missing = "not reached" if row.known else "–"
            text, value = rate_text(its[0].harm, counts=False) if its else (missing, math.nan)
            cells.append((f"{text}, {its[1].name}" if its else text, value))
        table.add(row.name, *cells)
    return table


def tables(found: Sequence[Sweep], figures: Path, folder: str = "") -> str:
    """Markdown of all sweeps; a figure per model is drawn at `figures` (a path without suffix), linked to in `folder`."""
    figures.parent.mkdir(parents=True, exist_ok=True)
    parts = []
    for i, sweep in enumerate(found):
        stem = figures if len(found) == 1 else figures.with_name(f"{figures.name}-{i}")
        picture = next(path for path in draw(sweep, stem) if path.suffix == ".png")
        parts.append(f"## {sweep.title}")
        for table in (settings_table(sweep), orders_table(sweep), frontier_table(sweep)):
            if table.rows:
                parts += [f"**{table.title}**", markdown(table), table.note]
        parts.append(f"![Harm and utility over the settings]({folder}{picture.name})")
    return "\n\n".join(parts)


def write_page(paths: Sequence[Path], output: Path) -> list[Sweep]:
    """The tables as Markdown in `output`, a figure per model beside it.

    Raises:
        UserError: there are no two settings to compare.
    """
    found = sweeps(paths)
    text = f"# Sensitivity to the settings of the fine-tuning\n\n{tables(found, output.with_suffix(''))}\n"
    output.write_text(text, encoding="utf-8")
    return found


def write_into(paths: Sequence[Path], page: Path) -> list[Sweep]:
    """The same between the markers of a page that has text of its own, its figures in figures/ beside it.

    Raises:
        UserError: there are no two settings to compare, or the page has no markers.
    """
    found = sweeps(paths)
    before = page.read_text(encoding="utf-8")
    replaced(before, "", START, END)  # refused before anything is drawn
    text = tables(found, page.parent / "figures" / page.stem, "figures/")
    page.write_text(replaced(before, text, START, END), encoding="utf-8")
    return found


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Exit 0, or 2 with one line on a user error."""
    parser = Parser(prog="python -m evaluation.sensitivity", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run.json, or the folder of one")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--output", type=Path, help="a page of its own; its figures lie beside it")
    where.add_argument("--page", type=Path, help=f"a page that has {START} and {END}: between them")
    options = parser.parse_args(arguments)
    found = (
        write_page(options.runs, options.output) if options.output else write_into(options.runs, options.page)
    )
    for sweep in found:
        print(sweep.title)
        for setting in sweep.settings:
            its = setting.damage
            said = f"{points_text(its.difference)} points" if its else "unknown"
            print(f"  {setting.name}: damage {said}{' *' if setting.damaged else ''}")
    print(f"page: {options.output or options.page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
