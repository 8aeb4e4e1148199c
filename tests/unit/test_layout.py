"""The house: files of a length that one reads in one go, and seams between the rooms at which every value has a type."""

from __future__ import annotations

import ast
import functools
import statistics
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("safemerge", "data", "evaluation", "pipeline")
LONGEST, MEDIAN = 300, 120  # lines
OPEN = ("dict[str, Any]", "Mapping[str, Any]")
#: What is open by nature: (module, name), and why.
BY_NATURE = {
    ("data.schema", "read_jsonl"): "rows that a trainer's log has, whose writer is not ours",
    ("data.schema", "write_jsonl"): "takes such rows, too",
    (
        "data.dataset",
        "Dataset",
    ): "rows in the columns of the originals, which a data set's own module turns into items",
    ("safemerge.files", "read_json"): "files of others",
    ("safemerge.checkpoints", "Checkpoint"): "has a model's config.json",
}


def lengths(*folders: str) -> dict[Path, int]:
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in paths}


def test_no_file_is_long() -> None:
    found = lengths(*ROOMS, "hydra_plugins", "tests", "requirements")
    assert {path: size for path, size in found.items() if size > LONGEST} == {}


def test_most_are_short() -> None:
    assert statistics.median(lengths(*ROOMS).values()) <= MEDIAN


@functools.cache
def tree(module: str) -> ast.Module | None:
    path = ROOT / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text()) if file.is_file() else None


def crossing() -> Iterator[tuple[str, str, str]]:
    """(file, module of another room, name that it takes from there)."""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            its = ast.parse(path.read_text())
            modules: dict[str, str] = {}
            for node in ast.walk(its):
                if not isinstance(node, ast.ImportFrom) or not node.module:
                    continue
                if node.module.partition(".")[0] not in set(ROOMS) - {room}:
                    continue
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    if tree(inner) is not None:
                        modules[alias.asname or alias.name] = inner
                    else:
                        yield str(path.relative_to(ROOT)), node.module, alias.name
            for node in ast.walk(its):
                owner = node.value if isinstance(node, ast.Attribute) else None
                if isinstance(node, ast.Attribute) and isinstance(owner, ast.Name) and owner.id in modules:
                    yield str(path.relative_to(ROOT)), modules[owner.id], node.attr


def annotations(module: str, name: str) -> list[str]:
    """Those of a function's arguments and result, or of a class's fields and public methods."""
    its = tree(module)
    found = [node for node in (its.body if its else []) if getattr(node, "name", None) == name]
    if found and isinstance(found[0], ast.ClassDef):
        found = [found[0], *(n for n in found[0].body if not getattr(n, "name", "").startswith("_"))]
    nodes: list[ast.expr | None] = []
    for node in found:
        if isinstance(node, ast.FunctionDef):
            every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            nodes += [node.returns, *(argument.annotation for argument in every)]
        elif isinstance(node, ast.AnnAssign):
            nodes.append(node.annotation)
    return [ast.unparse(node) for node in nodes if node is not None]


def test_what_passes_between_rooms_has_a_type() -> None:
    untyped = {
        f"{file}: {module}.{name}"
        for file, module, name in crossing()
        if (module, name) not in BY_NATURE and any(o in a for a in annotations(module, name) for o in OPEN)
    }
    assert untyped == set()
