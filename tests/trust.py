"""What may go wrong without a sound, and whether it is seen: the page docs/trust.md.

python -m tests.trust --output docs/trust.md

A section of the page is a function that measures and returns its text; SECTIONS puts them in order. Another measurement, of
the statistics or of the parsers, is another function.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from evaluation.tables import Table, markdown
from pipeline.checks import RULES
from tests.faults import FAULTS, found

HEAD = """# What the checks find, and what they do not

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


SECTIONS: tuple[Callable[[], str], ...] = (planted, unseen)


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
