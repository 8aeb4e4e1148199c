"""docs/scale.md says of each path what the results say, and nothing of what did not run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.planning import fill
from tests.scale import page, record
from tests.scale.executed import stages_of
from tests.scale.paths import PATHS, REMAINING

ROOT = Path(__file__).resolve().parents[2]
WHEN = {"date": "2026-11-29", "commit": "0123456789", "machine": "x", "seconds": 1.0, "why": ""}
JUNIT = """<?xml version="1.0"?><testsuites><testsuite>
<testcase classname="tests.scale.test_a" name="test_x[one]" time="2.04"><properties>
<property name="executed" value="llama3.1-8b|prepare|hub, items|miniature"/></properties></testcase>
<testcase classname="tests.scale.test_a" name="test_y" time="0.1"><skipped message="no  npm
here">tests</skipped></testcase>
<testcase classname="tests.unit.test_b" name="test_z" time="0.1"><failure message="boom">x</failure></testcase>
</testsuite></testsuites>"""


def passing(outcome: str = "passed") -> list[dict[str, object]]:
    return [
        {"id": f"{test}_more" if "::" in test else f"{test}::test_some", "outcome": outcome, **WHEN}
        for path in PATHS
        for test in path.tests
    ]


def test_the_tests_of_every_path_are_there() -> None:
    for path in PATHS:
        for test in path.tests:
            file, _, name = test.partition("::")
            text = (ROOT / file).read_text()
            assert not name or re.search(rf"^def {name.partition('[')[0]}", text, re.M), test


def test_what_nothing_can_execute_is_size_weights_or_hardware() -> None:
    assert {its.why for its in REMAINING} == {"size", "gated weights", "hardware"}


def test_a_junit_file_becomes_rows(tmp_path: Path) -> None:
    (tmp_path / "junit.xml").write_text(JUNIT)
    one, two, three = record.rows(tmp_path / "junit.xml")
    assert one["id"] == "tests/scale/test_a.py::test_x[one]" and one["outcome"] == "passed"
    assert one["executed"] == ["llama3.1-8b|prepare|hub, items|miniature"] and one["seconds"] == 2.0
    assert (two["outcome"], two["why"]) == ("skipped", "no npm here")
    assert (three["outcome"], three["why"]) == ("failed", "boom")


def test_a_result_stays_until_the_test_runs_again() -> None:
    old = [
        {"id": "a", "outcome": "passed", "commit": "old"},
        {"id": "b", "outcome": "passed", "commit": "old"},
    ]
    new = [
        {"id": "a", "outcome": "failed", "commit": "new"},
        {"id": "b", "outcome": "skipped", "commit": "new"},
    ]
    found = {row["id"]: (row["outcome"], row["commit"]) for row in record.merged(old, new)}
    assert found == {"a": ("failed", "new"), "b": ("passed", "old")}


def test_what_ran_is_executed_and_what_did_not_is_said() -> None:
    rows = passing()
    whole = page.paths(rows)
    assert "### Executable here, and not executed" not in whole
    assert all(path.what in whole for path in PATHS) and "0123456789" in whole
    rows[0]["outcome"], rows[0]["why"] = "failed", "boom"
    rows = [row for row in rows if "fsdp" not in str(row["id"])]
    some = page.paths(rows).split("### Executable here, and not executed")
    assert PATHS[0].what not in some[0] and f"{PATHS[0].what} | failed: boom" in some[1]
    assert "FSDP2" not in some[0] and "FSDP2" in some[1] and "not run" in some[1]
    assert "skipped" in page.paths(passing("skipped"))


def test_only_a_passed_run_executed_its_stages() -> None:
    its = {"id": "tests/scale/test_a.py::test_x", "executed": ["llama3.1-8b|merge|exact|miniature"], **WHEN}
    assert "| llama3.1-8b | merge | exact | miniature |" in page.stages([{**its, "outcome": "passed"}])
    assert "llama3.1-8b" not in page.stages([{**its, "outcome": "failed"}])


def test_the_stages_of_a_store_are_read_from_its_manifests(tmp_path: Path) -> None:
    from pipeline.store import Step, Store

    store = Store(tmp_path)
    for settings in ({"role": "task"}, {"role": "safety"}):
        fill(store, Step("finetune", "x", settings, {}))
    fill(store, Step("merge", "x", {"repair": {"kind": "blend", "combine": "exact"}}, {}))
    for path in tmp_path.glob("*/*/manifest.json"):
        step = {"finetune": {"role": "task"}, "merge": {"repair": {"kind": "blend", "combine": "exact"}}}
        stage = path.parent.parent.name
        path.write_text(json.dumps({"stage": stage, "settings": step[stage]}))
    assert stages_of(tmp_path) == [("finetune", "task"), ("merge", "exact")]


@pytest.mark.skipif(not (ROOT / "docs/scale.md").exists(), reason="no page yet: make scale")
def test_the_page_is_what_the_results_make() -> None:
    """All but the hours, which `pipeline.budget` counts anew each time."""
    text = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
    for section in (page.HEAD, *page.measured()):
        assert section in text, "docs/scale.md is older than its results: python -m tests.scale.page"
