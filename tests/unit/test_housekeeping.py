"""What lies in a store and who uses it; what may be removed; a run taken elsewhere."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from rich.console import Console

from pipeline import housekeeping
from pipeline.run import Runner
from pipeline.store import MANIFEST, Step, Store
from pipeline.usage import FOLDERS, USES, Uses, held
from safemerge.errors import UserError


def make(store: Store, stage: str, name: str, *inputs: Step, file: str = "rows.jsonl") -> Step:
    step = Step(stage, name, {"name": name}, {str(i): its for i, its in enumerate(inputs)})
    store.partial(step).mkdir(parents=True)
    (store.partial(step) / file).write_text(f"of {name}\n")
    store.commit(
        step, {"stage": stage, "name": name, "inputs": {role: its.key for role, its in step.inputs.items()}}
    )
    return step


class Place:
    """A store with a run that has a model, an adapter and completions, and one artifact that nothing uses."""

    def __init__(self, root: Path) -> None:
        self.store, self.runs = Store(root / "outputs" / "store"), root / "outputs" / "runs"
        self.model = make(self.store, "prepare", "aligned model", file="model.safetensors")
        self.adapter = make(self.store, "finetune", "task LoRA", self.model, file="adapter_model.safetensors")
        self.replies = make(self.store, "generate", "replies", self.adapter)
        self.unused = make(self.store, "merge", "old")
        self.run = self.runs / "run-1"
        (self.run / "report").mkdir(parents=True)
        (self.run / "report" / "report.html").write_text("<p>a report")
        path = os.path.relpath(self.store.path(self.replies) / "rows.jsonl", self.run)
        (self.run / "run.json").write_text(json.dumps({"run": "run-1", "runs": [{"completions": [path]}]}))

    def call(self, *arguments: str) -> int:
        return housekeeping.main(["--store", str(self.store.root), "--runs", str(self.runs), *arguments])


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_the_list_says_size_age_and_users(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    os.utime(
        place.store.path(place.unused) / MANIFEST, (0, 4e9)
    )  # from the future, after the clock was set back
    assert place.call("list") == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    for step in (place.model, place.adapter, place.replies):
        assert lines[f"{step.stage}/{step.key}"].endswith("  run-1"), "with all that it was made from"
        assert step.name in lines[f"{step.stage}/{step.key}"]
    unused = lines[f"merge/{place.unused.key}"]
    assert unused.endswith("  -") and " 0 s " in unused and " B " in unused
    assert "4 artifacts and 0 left-overs" in lines["4"] and "no run uses 1 of them" in lines["4"]


def test_prune_shows_first_and_removes_only_what_no_run_uses(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    (place.store.root / "merge" / ("0" * 20 + ".partial")).mkdir()
    (place.store.root / "merge" / ("1" * 20 + ".damaged")).mkdir()
    assert place.call("prune") == 0
    out = capsys.readouterr().out
    assert out.count("would remove") == 3 and f"merge/{place.unused.key}" in out and "prune --yes" in out
    assert place.store.has(place.unused)
    assert place.call("prune", "--yes") == 0
    assert not place.store.path(place.unused).exists() and not list(place.store.root.glob("merge/*"))
    fresh = Store(place.store.root)
    assert all(fresh.has(step) for step in (place.model, place.adapter, place.replies))


def test_a_run_that_has_not_finished_keeps_what_it_has_and_what_it_is_making(place: Place) -> None:
    """It has no run.json yet; in another folder of runs, too, which the store remembers."""
    elsewhere = place.runs.parent / "other-runs" / "run-2"
    coming = Step("merge", "coming", {"name": "coming"})
    Uses(elsewhere, place.store.root).add([f"merge/{place.unused.key}", f"merge/{coming.key}"])
    place.store.partial(coming).mkdir()
    assert place.call("prune", "--yes") == 0
    assert Store(place.store.root).has(place.unused) and place.store.partial(coming).exists()
    assert (place.store.root / FOLDERS).read_text() == f"{elsewhere.parent}\n"
    (elsewhere / USES).unlink()
    assert place.call("prune", "--yes") == 0
    assert not Store(place.store.root).has(place.unused) and not place.store.partial(coming).exists()


def test_checks_and_what_only_they_read_belong_to_the_run_that_was_checked(place: Place) -> None:
    """Of runs that were made before runs noted what they use."""
    parity = make(place.store, "parity", "engine check", place.adapter)
    check = make(place.store, "check", "checks", place.replies, parity)
    other = make(place.store, "check", "checks of another", parity)
    used = {its.key for its in held(place.store.root, [place.runs]) if its.runs}
    assert {parity.key, check.key} <= used and other.key not in used


def test_prune_waits_for_a_run_at_work(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    lock = place.store.root / "merge" / ("2" * 20 + ".lock")
    with FileLock(lock):
        assert place.call("prune", "--yes") == 2
    assert "a run is making merge/2222" in capsys.readouterr().err
    assert place.store.has(place.unused)


def test_a_run_goes_elsewhere_as_one_file(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "run.tar.gz"
    assert place.call("export", "run-1", str(file)) == 0
    with tarfile.open(file) as archive:
        names = set(archive.getnames())
    assert f"store/finetune/{place.adapter.key}/adapter_model.safetensors" in names
    assert f"manifests/prepare/{place.model.key}/{MANIFEST}" in names and "run/report/report.html" in names
    assert not any(place.model.key in name and "safetensors" in name for name in names), "models are left out"
    assert not any(place.unused.key in name for name in names)
    store, runs = tmp_path / "there" / "deep" / "store", tmp_path / "there" / "runs"
    there = ["--store", str(store), "--runs", str(runs)]
    assert housekeeping.main([*there, "import", str(file)]) == 0
    run = json.loads((runs / "run-1" / "run.json").read_text())
    assert (runs / "run-1" / run["runs"][0]["completions"][0]).read_text() == "of replies\n"
    assert Store(store).has(place.replies) and Store(store).has(place.adapter)
    assert (runs / "run-1" / "manifests" / "prepare" / place.model.key / MANIFEST).is_file()
    assert {its.name for its in held(store, [runs]) if its.runs} == {
        f"{its.stage}/{its.key}" for its in (place.adapter, place.replies)
    }
    assert sorted(path.name for path in store.iterdir()) == ["finetune", "generate"], "nothing half-written"
    assert housekeeping.main([*there, "import", str(file)]) == 2, "it is there already"


def test_a_damaged_artifact_is_not_exported(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place.store.path(place.replies) / "rows.jsonl").write_text("of replixs\n")
    assert place.call("export", "run-1", str(tmp_path / "x.tar.gz")) == 2
    assert "is damaged" in capsys.readouterr().err and not list(tmp_path.glob("*x.tar.gz*"))
    assert place.call("export", "../run-9", str(tmp_path / "x.tar.gz")) == 2


def _tar(file: Path, *members: tuple[tarfile.TarInfo, bytes]) -> None:
    with tarfile.open(file, "w:gz") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def _link(name: str, target: str, kind: bytes) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, b""


def _named(name: str, content: bytes = b"x") -> tuple[tarfile.TarInfo, bytes]:
    return tarfile.TarInfo(name), content


ABOUT = json.dumps({"run": "../../x", "store": "../store"}).encode()
HOSTILE: dict[str, Callable[[Path], None]] = {
    "a path upwards": lambda file: _tar(file, _named("run/../../../evil")),
    "a path from the root": lambda file: _tar(file, _named("/tmp/evil")),
    "another folder": lambda file: _tar(file, _named("etc/passwd")),
    "a link": lambda file: _tar(file, _link("run/x", "/etc/passwd", tarfile.SYMTYPE)),
    "a hard link": lambda file: _tar(file, _link("run/x", "/etc/passwd", tarfile.LNKTYPE)),
    "a device": lambda file: _tar(file, _link("run/x", "", tarfile.CHRTYPE)),
    "twice the same": lambda file: _tar(file, _named("run/x"), _named("run/x")),
    "a run's name upwards": lambda file: _tar(
        file, _named("archive.json", ABOUT), _named("run/run.json", b"{}")
    ),
    "an artifact of no store": lambda file: _tar(
        file,
        _named("archive.json", ABOUT.replace(b"../../x", b"x")),
        _named("run/run.json", b"{}"),
        _named("store/generate/evil/x"),
    ),
    "no archive": lambda file: [file.write_bytes(b"hello"), None][1],
    "a cut one": lambda file: [_tar(file, _named("run/x", os.urandom(9999))), os.truncate(file, 500)][1],
    "nothing in it": lambda file: _tar(file),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_an_archive_that_no_export_wrote(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.tar.gz"
    HOSTILE[kind](file)
    place = tmp_path / "there"
    code = housekeeping.main(
        ["--store", str(place / "store"), "--runs", str(place / "runs"), "import", str(file)]
    )
    err = capsys.readouterr().err
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and str(file) in err
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path != file]


def test_a_run_notes_what_it_uses_before_it_looks_for_it(place: Place) -> None:
    """So that what a run is about to find is not pruned under it, and an unfinished run keeps its work."""
    folder = place.runs / "run-3"
    with Runner(place.store, Console(file=io.StringIO()), folder=folder) as runner:
        with pytest.raises(UserError):  # its input is in no store
            lost = Step("merge", "lost", {"name": "lost"})
            runner.ensure("x", [Step("generate", "new", {"name": "new"}, {"adapter": lost})])
        runner.ensure("x", [place.unused])
    notes = json.loads((folder / USES).read_text())
    assert f"merge/{place.unused.key}" in notes["artifacts"] and len(notes["artifacts"]) == 2
    assert (folder / notes["store"]).resolve() == place.store.root.resolve()
    assert place.call("prune", "--yes") == 0
    assert Store(place.store.root).has(place.unused)
