"""The fuzz tests of the suite with as many inputs as are asked for, counted as hypothesis counts them."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.promises.runs import ROOT

FILES = ("tests/unit/test_safemerge_fuzz.py", "tests/unit/test_fuzz_readers.py")
COUNTS = re.compile(r"(\d+) passing, (\d+) failing, and \d+ invalid test cases")


def tests() -> list[str]:
    """Those that are decorated with FUZZED, as pytest names them."""
    found = []
    for file in FILES:
        for node in ast.parse((ROOT / file).read_text()).body:
            if isinstance(node, ast.FunctionDef) and any(
                ast.unparse(d) == "FUZZED" for d in node.decorator_list
            ):
                found.append(f"{file}::{node.name}")
    return found


def counted(text: str) -> int:
    """Inputs that the code under test was given, in all phases, by what hypothesis says."""
    return sum(int(passing) + int(failing) for passing, failing in COUNTS.findall(text))


def run(test: str, examples: int, seed: int, work: Path) -> dict[str, Any]:
    """One test; how many inputs it tried, and what it failed on."""
    (work / "fuzz").mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--hypothesis-show-statistics",
         f"--hypothesis-seed={seed}", f"--basetemp={work / 'fuzz' / test.rpartition('::')[2]}", test],
        cwd=ROOT,
        env={**os.environ, "FUZZ": str(examples)},
        capture_output=True,
        text=True,
    )  # fmt: skip
    failed = "" if done.returncode == 0 else (done.stdout.strip().splitlines() or ["nothing said"])[-2][:300]
    if done.returncode:
        (work / f"{test.rpartition('::')[2]}.txt").write_text(done.stdout + done.stderr)
    return {"inputs": counted(done.stdout), "failed": failed}
