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
NAME = re.compile(r"tests/\S+::(\w+):")
COUNTS = re.compile(r"(\d+) passing, (\d+) failing, and \d+ invalid test cases")


def tests() -> dict[str, list[str]]:
    """The names of those that are decorated with FUZZED, by file."""
    found: dict[str, list[str]] = {}
    for file in FILES:
        for node in ast.parse((ROOT / file).read_text()).body:
            if isinstance(node, ast.FunctionDef) and "FUZZED" in map(ast.unparse, node.decorator_list):
                found.setdefault(file, []).append(node.name)
    return found


def counted(text: str) -> dict[str, int]:
    """Inputs that the code under test was given, in all phases, by what hypothesis says of each test."""
    found: dict[str, int] = {}
    test = ""
    for line in text.splitlines():
        if name := NAME.fullmatch(line.strip()):
            test = name.group(1)
        for passing, failing in COUNTS.findall(line):
            found[test] = found.get(test, 0) + int(passing) + int(failing)
    return found


def run(file: str, names: list[str], examples: int, seed: int, work: Path) -> dict[str, dict[str, Any]]:
    """Those tests of a file; of each how many inputs it tried, and whether it failed. All is said in a file of `work`."""
    log = work / f"{Path(file).stem}.txt"
    (work / "fuzz").mkdir(parents=True, exist_ok=True)
    with log.open("w") as out:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--hypothesis-show-statistics",
             "--timeout=0", f"--hypothesis-seed={seed}", f"--basetemp={work / 'fuzz' / Path(file).stem}",
             *(f"{file}::{name}" for name in names)],
            cwd=ROOT,
            env={**os.environ, "FUZZ": str(examples)},
            stdout=out,
            stderr=out,
        )  # fmt: skip
    text = log.read_text(errors="replace")
    inputs = counted(text)
    bad = {
        name: f"see {log}" for name in re.findall(rf"^(?:FAILED|ERROR) {re.escape(file)}::(\w+)", text, re.M)
    }
    if done.returncode and not bad:
        bad = {name: f"pytest ended with {done.returncode}; see {log}" for name in names}
    return {name: {"inputs": inputs.get(name, 0), "failed": bad.get(name, "")} for name in names}
