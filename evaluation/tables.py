"""Tables as rows of text: one source for Markdown, HTML and LaTeX, so that no two outputs can disagree."""

from __future__ import annotations

import html
import math
import re
from dataclasses import dataclass, field
from typing import Any

NAMES = {
    "aligned": "Aligned (not fine-tuned)",
    "finetuned": "Fine-tuned",
    "safeinstruct": "SafeInstruct",
    "resta": "RESTA",
    "safelora": "SafeLoRA",
    "safemerge": "SafeMERGE",
    "full": "Full merge (τ = ∞)",
    "scale": "Scaled update",
    "random": "Control: random modules",
    "highest": "Control: highest-ρ modules",
}
# The released code's own merge is PEFT's `linear`, which weights A and B apart; `exact` blends the updates themselves.
COMBINES = {"peft_linear": "released merge", "exact": "exact merge"}
BENCHMARKS = {
    "gsm8k": "GSM8K",
    "pubmedqa": "PubMedQA",
    "directharm": "DirectHarm",
    "hexphi": "HEx-PHI",
    "advbench": "AdvBench",
    "harmbench": "HarmBench",
    "malicious": "Malicious",
    "xstest": "XSTest",
}


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


def method_name(name: str) -> str:
    """The display name of a method; a suffix such as "(exact)" stays."""
    first, _, rest = name.partition(" ")
    for combine, words in COMBINES.items():
        rest = rest.replace(combine, words)
    return NAMES.get(first, first) + (f" {rest}" if rest else "")


def data_name(source: str) -> str:
    """Where the data comes from, as tables say it."""
    return {"bundled": "bundled stand-in data", "local": "local copies", "hub": "hub data"}.get(
        source, source
    )


def benchmark_name(name: str | None) -> str:
    """The display name of a benchmark."""
    return BENCHMARKS.get(str(name), str(name))


def number(value: Any, digits: int = 3) -> str:
    """A setting as text: 0.7, ∞, or a dash."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, str):
        return "∞" if value in ("inf", "Infinity") else value
    return "∞" if math.isinf(value) else f"{value:.{digits}g}"


def percent(value: float, digits: int = 1) -> str:
    """A share as percent without the sign, or a dash."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.{digits}f}"


def rate_text(rate: dict[str, Any] | None, *, counts: bool = True) -> tuple[str, float]:
    """`12.5 [8.1, 18.7] (25/200)`.

    Over seeds `12.5 ± 2.0 [8.1, 18.7] (n=200, 3 seeds)`; and the value to sort by.
    """
    if not rate or not rate["n"] or math.isnan(rate["value"]):
        return "–", math.nan
    several = rate.get("seeds", 1) > 1
    text = percent(rate["value"])
    if several and not math.isnan(rate["sd"]):
        text += f" ± {percent(rate['sd'])}"
    text += f" [{percent(rate['low'])}, {percent(rate['high'])}]"
    if counts:
        text += (
            f" (n={rate['n']}, {rate['seeds']} seeds)" if several else f" ({round(rate['k'])}/{rate['n']})"
        )
    if rate.get("invalid"):
        text += f" +{rate['invalid']} invalid"
    return text, float(rate["value"])


def list_text(values: list[Any]) -> str:
    """Settings that may differ between seeds."""
    return "; ".join(number(value) for value in values) or "–"


def tau_text(row: dict[str, Any]) -> str:
    """The setting (a quantile, say) and what it resolved to."""
    setting, resolved = list_text(row["tau_setting"]), list_text(row["tau"])
    return (
        resolved if setting in ("–", resolved) else f"{setting} = {resolved}" if resolved != "–" else setting
    )


def merged_text(row: dict[str, Any]) -> tuple[str, float]:
    """k/N over the seeds."""
    if not row["modules"] or row["method"] in ("aligned", "finetuned", "safeinstruct"):
        return "–", -1.0
    return f"{list_text(row['merged'])}/{list_text(row['modules'])}", float(
        row["merged"][0] if row["merged"] else 0
    )


def headline_table(group: dict[str, Any], protocol: str = "headline") -> Table:
    """The main table of a group: `headline` is the test half, `paper` all prompts."""
    utility = group["utility"]
    columns = ["Method", "τ", "α", f"Utility: {benchmark_name(utility)} % ↑"]
    columns += [f"Harm: {benchmark_name(b)} % ↓" for b in group["harm"]]
    columns += [f"Over-refusal: {benchmark_name(b)} % ↓" for b in group["over_refusal"]]
    where = (
        "test half, τ and α chosen on the development half"
        if protocol == "headline"
        else "all prompts, best of the grid"
    )
    what = ", ".join(part for part in (group["model"], group["task"], data_name(group["data"])) if part)
    precision = f", {group['precision']}" if group["precision"] else ""
    table = Table(f"{what}{precision}: {where}", [*columns, "Modules merged"])
    for index, row in enumerate(group[protocol]):
        rates = row["rates"]
        name = method_name(row["name"]) + (" ⚠" if row["affected"] else "")
        table.add(
            name,
            tau_text(row),
            list_text(row["alpha"]),
            rate_text(rates.get(utility)),
            *(rate_text(rates.get(b)) for b in [*group["harm"], *group["over_refusal"]]),
            merged_text(row),
        )
        if row["method"] == "safemerge":
            table.marked.add(index)
        if row["affected"]:
            table.failed.add(index)
    several = len(group["seeds"]) > 1
    table.note = "Percent [95 % Wilson interval] (k/n). " + (
        "Mean ± standard deviation over the seeds; the interval is that of the prompts (n), not of the "
        "seeds. "
        if several
        else "One seed: the interval covers the prompts only. "
    )
    table.note += "Invalid verdicts are in neither k nor n; ⚠ marks rows touched by a failed check."
    return table


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
