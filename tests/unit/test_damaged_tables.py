"""A similarity table of a report that cannot be read is said, not left out; a module without rho is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.criterion import module_rows
from evaluation.results import Entry, load
from safemerge.errors import UserError
from tests.unit.synthetic_run import write_run


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    return load(write_run(tmp_path / "run", seeds=(0,), n=4, controls=()))[1][0]


@pytest.mark.parametrize("content", [b"", b"module,rho\nx,0.5\n", b"\xff\xfe\x00", b"a,b\n1,2\n"])
def test_a_table_that_is_none_is_one_line(entry: Entry, content: bytes) -> None:
    path = entry.path(str(entry.spec.similarity))
    before = path.read_bytes()
    path.write_bytes(content or before[: len(before) // 2])
    with pytest.raises(UserError, match="is not a similarity table"):
        module_rows(entry)
    path.unlink()
    with pytest.raises(UserError, match="no similarity table at"):
        module_rows(entry)


def test_a_module_without_rho_is_left_out(entry: Entry) -> None:
    path, whole = entry.path(str(entry.spec.similarity)), module_rows(entry)
    lines = path.read_text().splitlines()
    cells = lines[1].split(",")
    cells[lines[0].split(",").index("rho")] = ""
    path.write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]) + "\n")
    assert module_rows(entry) == whole[1:]
