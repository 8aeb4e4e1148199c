"""No content of a data file ends in anything but rows or one line."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data import sources
from data.catalogue import KNOWN
from safemerge.errors import UserError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
COLUMNS = (
    "question",
    "answer",
    "pubid",
    "context",
    "contexts",
    "final_decision",
    "instruction",
    "output",
    "tags",
    "prompt",
)
ROWS = st.lists(st.dictionaries(st.sampled_from(COLUMNS), VALUES, max_size=5), max_size=3)
CONTENT = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.text('{}[]",:\n\r 0ae#', max_size=40).map(str.encode),
    VALUES.map(lambda value: json.dumps(value).encode()),
    ROWS.map(lambda rows: json.dumps(rows).encode()),
    ROWS.map(lambda rows: "\n".join(map(json.dumps, rows)).encode()),
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=CONTENT, suffix=st.sampled_from([".csv", ".json", ".jsonl"]), name=st.sampled_from(sorted(KNOWN))
)
def test_no_content_of_a_file_ends_in_anything_but_rows_or_one_line(
    content: bytes, suffix: str, name: str, tmp_path: Path
) -> None:
    dataset = KNOWN[name]
    path = tmp_path / f"test{suffix}"
    path.write_bytes(content)
    for make, split in ((dataset.items, "test"), (dataset.examples, "train")):
        if make is None or dataset.read_folder:
            continue
        try:
            rows = sources.read(path, dataset)
            for row in make(rows):
                row.prompt.encode()  # can be written down
        except UserError as error:
            assert str(error) and "\n" not in str(error).replace(str(content), ""), (split, error)
