"""Every package that a room imports is declared for it, and nothing is declared that no room imports."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("safemerge", "pipeline", "evaluation", "data")
DISTRIBUTION = {"hydra": "hydra-core", "sklearn": "scikit-learn", "yaml": "pyyaml"}
OPTIONAL = {"vllm", "gguf", "lm-eval"}  # extras of their own


def imported(room: str) -> set[str]:
    """Names of the distributions that the modules of a room import, inside functions too."""
    found = set()
    for path in (ROOT / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found.add(node.module.partition(".")[0])
    outside = found - set(sys.stdlib_module_names) - set(ROOMS)
    return {DISTRIBUTION.get(name, name.replace("_", "-")) for name in outside}


def declared(lines: list[str]) -> set[str]:
    return {re.split(r"[<>=\[ ]", line, maxsplit=1)[0] for line in lines}


def test_what_is_imported_is_declared_and_the_other_way_round() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    library, experiment = (
        declared(project["dependencies"]),
        declared(project["optional-dependencies"]["experiment"]),
    )
    assert imported("safemerge") == library
    assert set().union(*map(imported, ROOMS)) - OPTIONAL == library | experiment


@pytest.mark.parametrize("lock", ["cpu", "cuda"])
def test_the_lock_of_lm_eval_agrees_with_the_others(lock: str) -> None:
    """It is installed over them: a package in both has one version, and what it adds is in neither."""

    def pins(name: str) -> dict[str, str]:
        lines = (ROOT / f"requirements/{name}.txt").read_text().splitlines()
        return dict(line.split(" ")[0].split("==", 1) for line in lines if "==" in line)

    extra, locked = pins("lm-eval"), pins(lock)
    assert {name: extra[name] for name in extra.keys() & locked.keys() if extra[name] != locked[name]} == {}
    assert {"evaluate", "sacrebleu", "langdetect"} <= extra.keys() - locked.keys()
