"""What may go wrong without a sound, and whether it is seen: the page docs/trust.md.

python -m tests.trust --output docs/trust.md

A section of the page is a function that measures and returns its text; SECTIONS puts them in order.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from evaluation.benchmarks.pubmedqa import LABELS
from evaluation.labelled import held_out_answers, held_out_refusals
from evaluation.tables import Table, markdown, rate_text
from pipeline.checks import RULES
from tests.coverage import cases
from tests.faults import FAULTS, found

HEAD = """# How far the numbers can be trusted

Written by `python -m tests.trust --output docs/trust.md`; do not edit. Each fault is planted in an otherwise sound
finished run (`tests/faults.py`), and what the checks of `pipeline/checks/` say of it is written down."""


def planted() -> str:
    """Each check against the faults that it is there for, and those that one might think it finds."""
    table = Table("", ["Check", "Fault planted", "Found", "How it speaks"])
    for fault in FAULTS:
        its = found(fault)[fault.check]
        seen = its.status != "pass"
        also = f", as does {', '.join(fault.also)}" if seen and fault.also else ""
        table.add(
            fault.check, fault.what, "yes" if seen else "**no**", f"{its.status}{also}" if seen else "–"
        )
    seen, total = sum(row[2] == "yes" for row in table.rows), len(table.rows)
    alarms = sum(its.status != "pass" for its in found(None).values())
    note = (
        f"{seen} of {total} are found; of the run without a fault {alarms} of {len(RULES)} checks speak. A check that "
        "fails marks the rows that it affects, and the report says so at its head; one that warns stands in its list."
    )
    return f"## Planted faults\n\n{markdown(table)}\n\n{note}"


def unseen() -> str:
    """What each check cannot see, as it says itself."""
    table = Table("", ["Check", "What it cannot see"])
    for name, rule in zip(found(None), RULES, strict=True):
        table.add(name, rule.blind_to)
    return f"## Blind spots\n\n{markdown(table)}"


def intervals() -> str:
    """How often each interval holds the truth."""
    table = Table("", ["Statistic", "Simulated studies", "Holds the truth in %"])
    for case in cases():
        table.add(case.statistic, case.setting, f"{100 * case.coverage(STUDIES):.1f}")
    note = (
        f"Of {STUDIES} simulated studies each (`tests/coverage.py`), for intervals that promise 95 %; chance alone moves "
        "these by half a point. Rates at the edge are held more often, because counts are whole numbers; an interval "
        "over seeds that are alike is wide, since three seeds do not know that they are. Means of few, skewed differences "
        "are held less often: no interval without a model of the skew does better."
    )
    return f"## Coverage of the intervals\n\n{markdown(table)}\n\n{note}"


def parsers() -> str:
    """How often the fixed rules that read replies are wrong, on replies that they were not tuned on."""
    refusals, answers = held_out_refusals(), held_out_answers()
    table = Table("", ["Rule", "Replies", "Read rightly % [95 %]"])
    for rule, what, its in (
        ("refusal phrases", "refusals", refusals.sensitivity),
        ("refusal phrases", "answers", refusals.specificity),
        *(("PubMedQA's answer", f"that say {word}", getattr(answers, word)) for word in LABELS),
        ("PubMedQA's answer", "that answer nothing", answers.invalid),
    ):
        table.add(rule, what, rate_text(its)[0])
    note = (
        "Held-out halves of `data/bundled/labelled_*.jsonl`, whose card says how they were written. GSM8K's number is read "
        "as lm-evaluation-harness reads it, which a test holds it to."
    )
    return f"## Error rates of the parsers\n\n{markdown(table)}\n\n{note}"


SECTIONS: tuple[Callable[[], str], ...] = (planted, unseen, intervals, parsers)
STUDIES = 2000


def page() -> str:
    """The whole page."""
    return "\n\n".join([HEAD, *(section() for section in SECTIONS)]) + "\n"


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(prog="python -m tests.trust", description="Write docs/trust.md.")
    parser.add_argument("--output", type=Path, required=True, help="the page to write")
    options = parser.parse_args()
    options.output.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
