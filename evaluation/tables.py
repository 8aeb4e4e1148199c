"""Tables as rows of text: one source for Markdown, HTML and LaTeX, so that no two outputs can disagree."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from evaluation import harness
from evaluation.analysis import Group
from evaluation.choosing import ENDS
from evaluation.headline import HeadlineRow, SeedRate
from evaluation.statistics import Rate
from safemerge.selection import of_null


@dataclass
class Table:
    """Cells are plain text.

    `keys` holds what a column sorts by where the text would sort badly; `marked` rows stand out.
    """

    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    keys: list[list[float | str]] = field(default_factory=list)
    marked: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)
    note: str = ""

    def add(self, *cells: tuple[str, float | str] | str) -> None:
        """Append a row of texts, or (text, sort key) pairs."""
        both = [cell if isinstance(cell, tuple) else (cell, cell) for cell in cells]
        self.rows.append([text for text, _ in both])
        self.keys.append(
            [-math.inf if isinstance(key, float) and math.isnan(key) else key for _, key in both]
        )


def number(value: Any, digits: int = 3) -> str:
    """A setting as text: 0.7, ∞, or a dash."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, str):
        return "∞" if value in ("inf", "Infinity") else value
    return "∞" if math.isinf(value) else f"{value:.{digits}g}"


def percent(value: float, digits: int = 1) -> str:
    """A share as percent without the sign, or a dash."""
    if value is None or math.isnan(value):
        return "–"
    # Halves go up: 52.5 and 87.5 would become 52 and 88 otherwise. The small number makes good what 100 * 0.285 lacks.
    return f"{math.floor(100 * value * 10**digits + 0.5 + 1e-9) / 10**digits:.{digits}f}"


def rate_text(
    rate: Rate | SeedRate | None, *, counts: bool = True, invalid: bool = True
) -> tuple[str, float]:
    """`12.5 [8.1, 18.7] (25/200)`, over seeds `12.5 [8.1, 18.7] (10.0; 15.0; n=200)`; and the value to sort by."""
    if not rate or not rate.n or math.isnan(rate.value):
        return "–", math.nan
    values, missing = (rate.values, rate.invalid) if isinstance(rate, SeedRate) else ([], [])
    text = f"{percent(rate.value)} [{percent(rate.low)}, {percent(rate.high)}]"
    if counts and len(values) < 2:
        text += f" ({round(rate.k)}/{rate.n})"
    elif counts:
        seeds = "every seed" if len(set(values)) == 1 else "; ".join(percent(value) for value in values)
        text += f" ({seeds}; n={rate.n})"
    if invalid and any(missing):
        text += f" +{missing[0] if len(set(missing)) == 1 else '; '.join(map(str, missing))} invalid"
    return text, float(rate.value)


def list_text(values: Sequence[float | str]) -> str:
    """Settings that may differ between seeds."""
    return "; ".join(number(value) for value in values) or "–"


def tau_text(row: HeadlineRow) -> str:
    """The setting (a quantile, say) and what it resolved to."""
    if row.tau_setting and all(of_null(setting) for setting in row.tau_setting):
        return "; ".join(f"{str(setting)[1:]} × null" for setting in row.tau_setting)
    if len(row.tau_setting) > 1 and len(row.tau_setting) == len(row.tau):
        return "; ".join(f"{number(a)} = {number(b)}" for a, b in zip(row.tau_setting, row.tau, strict=True))
    setting, resolved = list_text(row.tau_setting), list_text(row.tau)
    return (
        resolved if setting in ("–", resolved) else f"{setting} = {resolved}" if resolved != "–" else setting
    )


def merged_text(row: HeadlineRow) -> tuple[str, float]:
    """k/N over the seeds; a dash for a method that selects nothing. One that selected no module has 0/N."""
    if not row.modules or not (any(row.merged) or row.tau_setting or row.alpha):
        return "–", -1.0
    return f"{list_text(row.merged)}/{list_text(row.modules)}", float(row.merged[0])


def headline_table(group: Group, *, paper: bool = False) -> Table:
    """The main table of a group: the test half, or all prompts as the paper has it."""
    utility = group.utility
    columns = ["Method", "τ", "α", f"Utility: {group.name_of(utility)} % ↑"]
    columns += [f"Harm: {group.name_of(b)} % ↓" for b in group.harm]
    columns += [f"Over-refusal: {group.name_of(b)} % ↓" for b in group.over_refusal]
    others = list(dict.fromkeys(column for row in group.headline for column in row.harness))
    columns += others
    selected = "τ and α selected on the development half" if group.choices else "one point a row"
    where = "all prompts, best of the grid" if paper else f"{group.prompts}, {selected}"
    table = Table(f"{group.title}: {where}", [*columns, "Modules merged"])
    rows = group.paper if paper else group.headline
    for index, row in enumerate(rows):
        table.add(
            row.name + (" ⚠" if row.affected else ""),
            tau_text(row),
            list_text(row.alpha),
            rate_text(row.rates.get(utility or "")),
            *(rate_text(row.rates.get(b)) for b in [*group.harm, *group.over_refusal]),
            *(harness.cell(row.harness.get(column)) for column in others),
            merged_text(row),
        )
        if row.method == "safemerge":
            table.marked.add(index)
        if row.affected:
            table.failed.add(index)
    table.note = (
        "Percent: mean over the seeds [95 % interval] (each seed; n prompts in each). The interval covers seeds and "
        "prompts together; settings stand in the order of the seeds. The seed changes the trained LoRAs and with them "
        "what is selected; base, aligned model, prompts and judge are the same in all. "
        if len(group.seeds) > 1
        else "Percent [95 % Wilson interval] (k/n). One seed: the interval covers the prompts only. "
    )
    table.note += (
        "Invalid: of the utility, answers that could not be read, which count as wrong and are in n; of harm and "
        "over-refusal, verdicts in neither k nor n. ⚠ marks rows touched by a failed check."
    )
    unmet = [] if paper else unmet_sentences(group)
    scores = [score for row in rows for seeds in row.harness.values() for score in seeds]
    unmet += [harness.sentence(scores)] if scores else []
    table.note = " ".join([table.note, *tuned_sentences(group), *unmet, *projection_sentences(rows)])
    return table


def tuned_sentences(group: Group) -> list[str]:
    """Among how many points each row was selected, and which rows had none to select from.

    The two ends have nothing to set, and controls take what SafeMERGE's row has.
    """
    sizes: dict[str, list[int]] = {}
    for choice in group.choices:
        sizes.setdefault(choice.method, []).append(choice.of)
    points = {name: list_text(sorted(set(its))) for name, its in sizes.items()}
    single = [
        row.name
        for row in group.headline
        if row.name not in points and row.method not in ENDS and not row.display.control
    ]
    found = (
        [f"Selected among: {'; '.join(f'{name} {n} points' for name, n in points.items())}."]
        if points
        else []
    )
    return found + ([f"One point each, not tuned: {'; '.join(single)}."] if single else [])


def projection_sentences(rows: Sequence[HeadlineRow]) -> list[str]:
    """What SafeLoRA's projections did to the length of the updates, a value per seed where they differ."""
    found = []
    for row in rows:
        values = [number(its.shrink, 2) for its in row.projections]
        shrinks = values[0] if len(set(values)) == 1 else "; ".join(values)
        if row.projections and row.projections[0].projector == "official":
            found.append(
                f"{row.name} (official C) multiplies the updates of its modules by {shrinks} (median): C is no projector."
            )
        elif row.projections:
            found.append(f"{row.name} multiplies the updates of its modules by {shrinks} (median).")
    return found


def unmet_sentences(group: Group) -> list[str]:
    """Which rows had no point that kept enough of the utility, so that the one with the highest utility stands."""
    found: dict[str, list[str]] = {}
    for row in group.choices:
        if not row.met:
            found.setdefault(row.method, []).append(str(row.seed))
    rows = "; ".join(f"{name} (seed {', '.join(seeds)})" for name, seeds in found.items())
    said = "No point kept enough utility on the development half, and the one with the highest utility stands"
    return [f"{said}: {rows}."] if found else []


def markdown(table: Table) -> str:
    """A GitHub table; pipes and angle brackets in cells are escaped."""

    def cell(text: str) -> str:
        return re.sub(r"\s+", " ", html.escape(text, quote=False).replace("|", "\\|"))

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    rows = [[cell(text) for text in row] for row in table.rows]
    rows = [
        [f"**{text}**" if i in table.marked and text != "–" else text for text in row]
        for i, row in enumerate(rows)
    ]
    return "\n".join(
        [line([cell(c) for c in table.columns]), line(["---"] * len(table.columns)), *map(line, rows)]
    )


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "–": "--",
    "τ": r"$\tau$", "α": r"$\alpha$", "ρ": r"$\rho$", "κ": r"$\kappa$", "∞": r"$\infty$", "±": r"$\pm$",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "⚠": r"$\dagger$", "−": r"$-$", "×": r"$\times$",
}  # fmt: skip


def latex_text(text: str) -> str:
    """Escaped for LaTeX, the method's Greek letters as math."""
    return "".join(_LATEX.get(ch, ch) for ch in text)


def latex(table: Table, label: str = "tab:main") -> str:
    """A booktabs table that compiles on its own lines; SafeMERGE's row in bold."""
    head = " & ".join(latex_text(c) for c in table.columns)
    lines = []
    for i, row in enumerate(table.rows):
        cells = [latex_text(text) for text in row]
        lines.append(" & ".join(rf"\textbf{{{c}}}" if i in table.marked else c for c in cells) + r" \\")
    body = "\n".join(lines)
    return (
        "% needs \\usepackage{booktabs,graphicx}\n"
        "\\begin{table}[t]\n\\centering\n"
        f"\\caption{{{latex_text(table.title)}. {latex_text(table.note)}}}\n\\label{{{label}}}\n"
        "\\resizebox{\\linewidth}{!}{%\n"
        f"\\begin{{tabular}}{{l{'c' * (len(table.columns) - 1)}}}\n\\toprule\n{head} "
        f"\\\\\n\\midrule\n{body}\n"
        "\\bottomrule\n\\end{tabular}}\n\\end{table}\n"
    )
