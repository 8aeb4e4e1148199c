"""Prune removes nothing that a run may use: one that cannot be seen, one at work, one of before uses were noted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import SoftFileLease

from pipeline import housekeeping
from pipeline.integrity import sealed
from pipeline.locks import LEASE_S
from pipeline.store import MANIFEST, Step, Store
from pipeline.usage import FOLDERS, Uses


class Place:
    """A store with one artifact that no run in `runs` uses."""

    def __init__(self, root: Path) -> None:
        self.store, self.runs = Store(root / "store"), root / "runs"
        self.step = Step("merge", "old", {"name": "old"})
        self.store.partial(self.step).mkdir(parents=True)
        self.store.commit(self.step, {"stage": "merge", "name": "old"})
        self.name = f"merge/{self.step.key}"

    def prune(self, *arguments: str, runs: tuple[Path, ...] = ()) -> int:
        folders = [part for path in (self.runs, *runs) for part in ("--runs", str(path))]
        return housekeeping.main(["--store", str(self.store.root), *folders, "prune", "--yes", *arguments])

    @property
    def there(self) -> bool:
        return self.store.path(self.step).exists()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_folder_of_runs_that_cannot_be_seen_is_no_empty_one(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "a disk" / "runs"
    Uses(disk / "run-1", place.store.root).add([place.name])
    disk.parent.rename(tmp_path / "elsewhere")
    assert place.prune() == 2 and place.there
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"--forget '{disk}'" in err and "--runs DIR" in err
    # Moved: the same run, from its new place.
    notes = tmp_path / "elsewhere" / "runs" / "run-1" / "uses.json"
    notes.write_text(json.dumps({**json.loads(notes.read_text()), "store": str(place.store.root)}))
    assert place.prune("--forget", str(disk), runs=(tmp_path / "elsewhere" / "runs",)) == 0 and place.there
    assert (place.store.root / FOLDERS).read_text() == "", "said once"
    assert place.prune() == 0 and not place.there


def test_what_was_made_before_runs_noted_their_uses_stays(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    path = place.store.path(place.step) / MANIFEST
    old = {k: v for k, v in json.loads(path.read_text()).items() if k not in ("files", "sha256")}
    path.write_text(json.dumps(old))
    assert place.prune() == 0 and place.there
    assert "1 more were made before runs noted" in capsys.readouterr().out
    assert place.prune("--older") == 0 and not place.there
    path.parent.mkdir()
    path.write_text(json.dumps(sealed({**old, "files": {}})))
    assert place.prune() == 0 and not place.there


def test_a_run_with_leases_is_at_work_too(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    lock = place.store.root / "merge" / ("2" * 20 + ".lease")
    with SoftFileLease(lock, lease_duration=LEASE_S):
        assert place.prune() == 2 and place.there
    err = capsys.readouterr().err
    assert "a run is making merge/2222" in err and "120 s" in err and err.count("\n") == 1
    assert place.prune() == 0 and not place.there and not list(place.store.root.glob("*/*.lease"))


def test_what_a_run_begins_to_use_while_prune_waits_for_locks_stays(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked at after the locks are held, not before."""
    hold = housekeeping._hold

    def holding(*arguments: object) -> None:
        hold(*arguments)  # type: ignore[arg-type]
        Uses(place.runs / "run-2", place.store.root).add([place.name])

    monkeypatch.setattr(housekeeping, "_hold", holding)
    assert place.prune() == 0 and place.there


NOTES = """
import sys
from pathlib import Path
from pipeline.usage import Uses
uses = Uses(Path(sys.argv[1]), Path(sys.argv[2]))
for n in range(300):
    uses.add([f"merge/{n}"])
"""


def test_the_same_command_twice_at_once_notes_its_uses(place: Place) -> None:
    folder = place.runs / "run-1"
    command = [sys.executable, "-c", NOTES, str(folder), str(place.store.root)]
    environment = {**os.environ, "PYTHONPATH": str(Path(housekeeping.__file__).parents[1])}
    both = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    assert [(its.communicate()[1], its.returncode) for its in both] == [("", 0)] * 4
    assert [path.name for path in folder.iterdir()] == ["uses.json"]
    assert len(json.loads((folder / "uses.json").read_text())["artifacts"]) == 300
