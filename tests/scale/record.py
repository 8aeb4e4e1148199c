"""Run the long tests and those of `tests.scale.paths`, and write down which passed, when and at which commit.

python -m tests.scale.record [PYTEST'S ARGUMENTS]        # make scale; with arguments only those, the others stay

docs/scale/tests.json has a row per test; docs/scale.md is made from it.
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from pipeline import provenance
from tests.scale.paths import needed

RESULTS = Path("docs/scale/tests.json")


def rows(junit: Path) -> Iterator[dict[str, Any]]:
    """The tests of a JUnit file: id, outcome (passed, failed, skipped), why, seconds, and the stages they recorded."""
    for case in ElementTree.parse(junit).iter("testcase"):
        found = next((its for its in case if its.tag in ("failure", "error", "skipped")), None)
        outcome = "passed" if found is None else "skipped" if found.tag == "skipped" else "failed"
        executed = [str(its.get("value")) for its in case.iter("property") if its.get("name") == "executed"]
        yield {
            "id": f"{str(case.get('classname')).replace('.', '/')}.py::{case.get('name')}",
            "outcome": outcome,
            "why": "" if found is None else " ".join(str(found.get("message")).split())[:200],
            "seconds": round(float(case.get("time", 0)), 1),
            **({"executed": executed} if executed else {}),
        }


def merged(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By id; a test that was only skipped now keeps what it found before."""
    found = {row["id"]: row for row in old}
    for row in new:
        if row["outcome"] != "skipped" or found.get(row["id"], row)["outcome"] == "skipped":
            found[row["id"]] = row
    return [found[name] for name in sorted(found)]


def main() -> int:
    """pytest's exit code."""
    with tempfile.TemporaryDirectory() as folder:
        junit = Path(folder) / "junit.xml"
        told = sys.argv[1:]
        chosen = [] if any(not word.startswith("-") for word in told) else needed()
        code = subprocess.call(
            [
                sys.executable,
                "-m",
                "pytest",
                *chosen,
                *told,
                f"--junitxml={junit}",
                "-o",
                "junit_family=xunit1",
            ]
        )
        if not junit.exists():
            return code
        git = provenance.git()
        made = {
            "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
            "commit": str(git.commit)[:10] + ("+" if git.dirty else ""),
            "machine": f"{provenance.machine().cpu}, {provenance.machine().cores} cores",
        }
        new = [{**row, **made} for row in rows(junit)]
    old = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(merged(old, new), indent=1) + "\n", encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
