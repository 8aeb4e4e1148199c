"""report.md and report.html from the same tables.

The HTML is one offline file; whatever a model wrote stays text in it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.schema import Item
from evaluation import claim_tables, criterion_tables, judge_tables, measure_tables, sections
from evaluation.analysis import Group
from evaluation.choosing import Chosen
from evaluation.long_form import plain
from evaluation.multiverse_table import multiverse_table
from evaluation.published import SETTINGS
from evaluation.quality import flags
from evaluation.results import Entry, Point, primary
from evaluation.run_file import Role, RunFile
from evaluation.run_tables import costs_table, points_table, provenance_table
from evaluation.tables import Table, headline_table, markdown

TEMPLATES = Path(__file__).parent / "templates"
BROWSED = 300  # prompts per benchmark in the completions browser, so that the file stays a few megabytes
CAPTIONS = {
    "pareto": "Utility against harm; open circles are the whole grid.",
    "tau_curve": "The grid over τ: what the selection looked at, not a result.",
    "rho_heatmap": "ρ per module. Low ρ: the update left the safety subspace.",
    "rho_null": "ρ per module against its null. Above the line: more of it lies in V's directions than chance puts there.",
    "categories": "Harm per prompt category, selected points.",
    "seeds": "Spread over training seeds.",
    "training": "Training loss.",
    "multiverse": "The claims that other readings of the stored rows flip most (`evaluation.multiverse` has all).",
}


def group_tables(group: Group) -> list[tuple[str, list[Table]]]:
    """(section title, its tables) of one group, empty tables left out."""
    found = [
        ("Results", [headline_table(group), sections.recovery_table(group)]),
        ("Claims", [claim_tables.claims_table(group, by) for by in claim_tables.BY]),
        ("The verdict multiverse", [multiverse_table(group.multiverse)]),
        ("The criterion against its controls", criterion_tables.control_tables(group)),
        ("The paper's protocol: all prompts", [headline_table(group, paper=True)]),
        (
            "Continuous measures",
            [measure_tables.measures_table(group), measure_tables.measure_tests_table(group)],
        ),
        ("Selection", [sections.choices_table(group)]),
        ("Paired tests", [sections.tests_table(group), sections.power_table(group)]),
        ("Categories", [sections.categories_table(group)]),
        (
            "The criterion against its null",
            [criterion_tables.nulls_table(group), criterion_tables.kinds_table(group)],
        ),
        (
            "Judges",
            [
                judge_tables.judges_table(group),
                judge_tables.rules_table(group),
                judge_tables.usage_table(group),
                judge_tables.agreement_table(group),
                judge_tables.corrected_table(group),
            ],
        ),
        ("Checks", [sections.checks_table(group)]),
        ("Quality", [sections.quality_table(group)]),
    ]
    return [(title, [t for t in tables if t.rows]) for title, tables in found if any(t.rows for t in tables)]


def failures(groups: list[Group]) -> list[str]:
    """A line per failed check, for the banner."""
    return [
        f"{group.model}, {group.task}, seed {row.seed}: check {row.check.name} failed: {row.check.detail} "
        f"(affects {', '.join(row.check.affects) or 'every row of this seed'})"
        for group in groups
        for row in group.checks
        if row.check.status == "fail"
    ]


def all_notes(groups: list[Group]) -> list[str]:
    """The notes of all groups, each once."""
    return list(dict.fromkeys(note for group in groups for note in group.notes))


def render_markdown(
    runs: list[RunFile],
    groups: list[Group],
    literature: Table,
    pictures: dict[int, dict[str, Path]],
) -> str:
    """report.md; pictures (group index -> name -> PNG) are linked by file name."""
    parts = [
        "# SafeMERGE replication: report",
        "Generated from artifacts; do not edit. The same with a browser of completions: report.html.",
    ]
    if failed := failures(groups):
        parts.append(
            "> **A check failed; the rows marked ⚠ are not to be trusted.**\n>\n"
            + "\n".join(f"> - {f}" for f in failed)
        )
    parts += [f"> {note}" for note in all_notes(groups)]
    for index, group in enumerate(groups):
        parts.append(f"## {group.title}")
        for number, (title, tables) in enumerate(group_tables(group)):
            parts.append(f"### {title}")
            for table in tables:
                parts += [f"**{table.title}**", markdown(table), table.note]
            if number == 0:
                parts += [f"![{CAPTIONS[n]}]({p.name})" for n, p in pictures[index].items()]
    parts += ["## Ours against the paper", markdown(literature), literature.note]
    parts += [
        "Settings that the literature gives: " + "; ".join(f"{k}: {v} ({s})" for k, v, s in SETTINGS) + "."
    ]
    parts += ["## Provenance", markdown(provenance_table(runs))]
    tables = [table for table in (costs_table(runs), points_table(runs)) if table.rows]
    parts += ["## Cost"] if tables else []
    for table in tables:
        parts += [f"**{table.title}**", markdown(table), table.note]
    return "\n\n".join(part for part in parts if part) + "\n"


def render_html(
    runs: list[RunFile],
    groups: list[Group],
    literature: Table,
    pictures: dict[int, dict[str, Path]],
    browser: list[dict[str, Any]],
) -> str:
    """report.html: everything inline, nothing loaded, a content policy that forbids it."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    env = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    content = [
        {
            "title": group.title,
            "anchor": f"g{index}",
            "sections": group_tables(group),
            "pictures": [(CAPTIONS[name], _data_uri(path)) for name, path in pictures[index].items()],
        }
        for index, group in enumerate(groups)
    ]
    css, js = ((TEMPLATES / f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return env.get_template("report.html.j2").render(
        policy=content_policy(css, js),
        groups=content,
        failures=failures(groups),
        notes=[note.replace("*", "") for note in all_notes(groups)],
        literature=literature,
        settings=SETTINGS,
        provenance=provenance_table(runs),
        costs=[table for table in (costs_table(runs), points_table(runs)) if table.rows],
        configs=[(run.run, json.dumps(plain(run.config), indent=2, ensure_ascii=False)) for run in runs],
        css=css,
        js=js,
        data=script_json(browser),
    )


def content_policy(css: str, js: str) -> str:
    """What the page may load and run: its own pictures, this style and this script, by their hashes, and nothing else."""
    style, script = (
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in (css, js)
    )
    return (
        f"default-src 'none'; img-src data:; style-src {style}; script-src {script}; "
        "base-uri 'none'; form-action 'none'"
    )


def script_json(value: Any) -> str:
    """JSON that is safe inside a script element.

    No `<`, `>`, `&` and no line separators, whatever the strings hold.
    """
    text = json.dumps(plain(value), ensure_ascii=True, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def browser_data(entries: list[tuple[Entry, Chosen]], limit: int = BROWSED) -> list[dict[str, Any]]:
    """Per entry and benchmark.

    Prompts that every chosen method answered, with each one's completion, verdict per judge and quality flags.
    """
    found = []
    for entry, chosen in entries:
        for benchmark, role in entry.roles.items():
            points = {name: p for name, p in chosen.items() if benchmark in p.completions}
            if not points:
                continue
            items = [i for i in entry.items[benchmark] if answered_by_all(points.values(), benchmark, i)]
            shown = items[:limit]
            columns = {name: _column(entry, p, benchmark, role) for name, p in points.items()}
            found.append(
                {
                    "entry": f"{entry.spec.model} · {entry.spec.task} · seed {entry.spec.seed}",
                    "benchmark": entry.benchmark_name(benchmark),
                    "role": role,
                    "total": len(items),
                    "methods": [
                        {"id": name, "method": p.method, "name": name, "label": p.label}
                        for name, p in points.items()
                    ],
                    "items": [
                        {
                            **asdict(item),
                            "cells": [columns[name][item.id] for name in points],
                        }
                        for item in shown
                    ],
                }
            )
    return found


def answered_by_all(points: Iterable[Point], benchmark: str, item: Item) -> bool:
    """Whether all points answered the item's half, so that their replies can be read side by side."""
    return all(point.answered(benchmark, item.half) for point in points)


def _column(entry: Entry, point: Point, benchmark: str, role: Role) -> dict[str, dict[str, str]]:
    """What the browser shows of each reply of one method."""
    scored = {row.id: row for row in primary(entry, point, benchmark)}
    others = {
        judge: {row.id: row.verdict for row in rows}
        for judge, rows in point.scored[benchmark].items()
        if role == "harm" and judge != entry.judge
    }
    cells = {}
    for row in point.completions[benchmark]:
        its = scored[row.id]
        if role == "utility":
            verdict = "correct" if its.outcome else "no answer" if its.invalid else "wrong"
        elif role == "harm":
            verdict = its.verdict
        else:
            verdict = {True: "refused", False: "answered", None: "invalid"}[its.outcome]
        cells[row.id] = {
            "text": row.completion,
            "verdict": verdict,
            "note": " · ".join(
                [
                    *(f"{judge}: {verdicts[row.id]}" for judge, verdicts in others.items()),
                    *flags(row, prose=role != "utility"),
                ]
            ),
        }
    return cells
