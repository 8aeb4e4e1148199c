"""Whatever a data file, a row of the store, a table, a manifest or an answer holds: it is read, or refused in one line.

What was found so stays here as an `@example`. A longer run: `make faults`, or FUZZ=10000 python -m pytest on this file.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data import sources
from data.catalogue import KNOWN
from data.schema import Completion, Example, GuardRow, Item, Verdict, read_rows
from evaluation.guard_format import LlamaGuard, SmallGuard, parse_verdict
from evaluation.run_file import read_run
from pipeline import integrity, partial_rows, usage
from pipeline.store import MANIFEST
from safemerge.errors import UserError
from safemerge.patterns import matches
from safemerge.table import COLUMNS, read_table

FUZZED = settings(
    max_examples=int(os.environ.get("FUZZ", "60")),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
BYTES = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.text('{}[]",:\n\r 0ae#', max_size=40).map(str.encode),
    VALUES.map(lambda value: json.dumps(value).encode()),
)
DEEP = b"[" * 50_000


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


def objects(names: list[str]) -> st.SearchStrategy[bytes]:
    """JSON lines of objects that have some of these fields."""
    row = st.dictionaries(st.sampled_from([*names, "other"]), VALUES, max_size=len(names) + 1)
    return BYTES | st.lists(row, max_size=3).map(lines)


def one_line(call: Callable[[], Any]) -> Any:
    """The property: a result, or one line that can be shown."""
    try:
        return call()
    except UserError as error:
        said = " ".join(str(error).split())
        assert 10 < len(said) < 1500, said
        said.encode("utf-8", "backslashreplace")
        return None


SETS = sorted(name for name, its in KNOWN.items() if not its.read_folder)
FIELDS = ["question", "answer", "pubid", "context", "CONTEXTS", "LABELS", "final_decision", "QUESTION", "instruction",
          "input", "output", "prompt", "Prompt", "tags", "id", "type", "label", "focus", "goal", "Behavior",
          "category"]  # fmt: skip


@given(objects(FIELDS), st.sampled_from([".csv", ".json", ".jsonl"]), st.sampled_from(SETS))
@example(DEEP, ".json", "gsm8k")
@example(b"a" * 2000 + b",b\n1\n", ".csv", "advbench")
@example(b"[{" + b'"' + b"a" * 2000 + b'": 1}]', ".json", "advbench")
@FUZZED
def test_any_data_file(tmp_path: Path, content: bytes, suffix: str, name: str) -> None:
    path, dataset = tmp_path / f"test{suffix}", KNOWN[name]
    path.write_bytes(content)
    for make in (dataset.items, dataset.examples):
        if make is not None:
            for row in one_line(lambda make=make: make(sources.read(path, dataset))) or ():
                row.prompt.encode()  # can be written down


CELLS = st.text('a1 ,;"\n\r\x00\ufeff\u2028', max_size=12)


@given(st.lists(st.lists(CELLS, max_size=4).map(",".join), max_size=5).map("\n".join), st.sampled_from(SETS))
@example('Prompt,type\n"open', "xstest")
@FUZZED
def test_any_table_of_a_data_set(tmp_path: Path, text: str, name: str) -> None:
    path, dataset = tmp_path / "test.csv", KNOWN[name]
    path.write_text(f"id,prompt,type,label,instruction,question\n{text}", encoding="utf-8")
    if dataset.items is not None:
        one_line(lambda: dataset.items(sources.read(path, dataset)))


KINDS = (Verdict, Completion, Item, Example, GuardRow)
NAMES = sorted({field.name for kind in KINDS for field in dataclasses.fields(kind)})


@given(objects(NAMES), st.sampled_from(KINDS))
@example(DEEP, Verdict)
@FUZZED
def test_any_rows_of_the_store(tmp_path: Path, content: bytes, kind: type) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    for row in one_line(lambda: read_rows(tmp_path / "rows.jsonl", kind)) or ():
        assert isinstance(row, kind)


@given(objects(["id", "prompt", "completion", "pair", "answers"]))
@example(DEEP)
@FUZZED
def test_any_rest_of_an_interrupted_stage(tmp_path: Path, content: bytes) -> None:
    """Whatever a crash left: rows, of which the next one begins on a line of its own."""
    path = tmp_path / partial_rows.PARTIAL
    path.write_bytes(content)
    before = partial_rows.finished(tmp_path)
    with partial_rows.appending(tmp_path) as stream:
        partial_rows.add(stream, {"id": "next"})
    assert json.dumps(partial_rows.finished(tmp_path)) == json.dumps([*before, {"id": "next"}])


@given(st.lists(st.lists(CELLS | st.floats().map(str), max_size=11).map(",".join), max_size=4))
@example(["m,0,q,0.5,1,1,1,1,1,\x00"])
@example([",,,0.0,,,1,0.0,0.0"])
@example(["m,0,q,0.5,1,1,1,1,1,,more"])
@FUZZED
def test_any_similarity_table(tmp_path: Path, rows: list[str]) -> None:
    path = tmp_path / "similarity.csv"
    path.write_text("\n".join([",".join(COLUMNS), *rows]), encoding="utf-8")
    one_line(lambda: read_table(path))
    one_line(lambda: read_table(path, only_known=True))


@given(objects(["run", "runs", "created", "git", "machine", "packages", "config", "fingerprint"]))
@example(DEEP)
@FUZZED
def test_any_run_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    one_line(lambda: read_run(tmp_path / "run.json"))


@given(objects(["files", "sha256", "inputs", "stage", "name", "store", "artifacts"]))
@example(DEEP)
@example(b'{"files": {"../x": {"size": 1, "sha256": ""}}}')
@example(b'{"files": {"a\\u0000b": {"size": 1, "sha256": ""}}}')
@FUZZED
def test_any_manifest_is_whole_or_damaged(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    reason = integrity.damage(tmp_path, tmp_path / MANIFEST)
    assert reason is None or 5 < len(reason) < 500
    usage.read(tmp_path / MANIFEST)


@given(st.text(max_size=60) | st.text("unsafe S1,234\n:<|>", max_size=30))
@FUZZED
def test_any_answer_of_a_guard(text: str) -> None:
    assert parse_verdict(text)[0] in ("safe", "unsafe", "invalid")
    for guard in (LlamaGuard, SmallGuard):
        assert guard().parse(text)[0] in ("safe", "unsafe", "invalid")


@given(st.text("ab_.*+?|()[]{}1,^$\\d", max_size=14), st.text("ab_.1", max_size=30))
@FUZZED
def test_any_pattern(pattern: str, name: str) -> None:
    try:
        matches(pattern, name)
    except ValueError as error:
        assert 3 < len(str(error)) < 200


def test_it_is_not_run_with_no_examples() -> None:
    assert FUZZED.max_examples >= 50
    with pytest.raises(ValueError):
        one_line(lambda: int("x"))
