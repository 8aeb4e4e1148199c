"""`make setup`, with a stand-in for Python, pip and uv: what it calls, when it falls back, and that one runs at a time."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements"
#: Makes a venv that holds itself, logs what pip is asked for, and leaves all else to a Python without site-packages.
PYTHON = """#!/usr/bin/env bash
stubs={stubs}
case "$*" in
    "-m venv "*) echo "new-venv" >>$stubs/log; mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
    *"-m pip config list") [ ! -e $stubs/pip-config ] || cat $stubs/pip-config ;;
    *" -m pip "*"uv=="* | "-m pip "*"uv=="*)
        echo "pip uv" >>$stubs/log; [ -e $stubs/uv ] && cp $stubs/uv .venv/bin/uv ;;
    *"-m pip "*)
        echo "pip $*" >>$stubs/log
        sleep "$(cat $stubs/seconds 2>/dev/null || echo 0)"
        [ ! -e $stubs/pip-fails ] ;;
    *) PYTHONPATH=$stubs/site exec {python} -S "$@" ;;
esac
"""
UV = """#!/usr/bin/env bash
stubs={stubs}
[ "$1" != --version ] || {{ echo "uv 0.0.0"; exit; }}
echo "uv $* index=${{UV_DEFAULT_INDEX:-}}" >>$stubs/log
[ ! -e $stubs/uv-fails ] || {{ echo "no wheel for this machine" >&2; exit 1; }}
"""


class Project:
    """A folder with the set-up script, two tiny locks and the stand-ins."""

    def __init__(self, home: Path) -> None:
        self.root, self.stubs = home / "project", home / "stubs"
        self.stubs.mkdir()
        (self.root / "requirements").mkdir(parents=True)
        for name in ("setup.sh", "pip_to_uv.py", "missing.py"):
            shutil.copy(REQUIREMENTS / name, self.root / "requirements" / name)
        for name in ("cpu", "cuda"):
            (self.root / f"requirements/{name}.txt").write_text("numpy==2.0\ntorch==9.9.9\n")
        (self.root / "pyproject.toml").write_text("")
        self.script("python", PYTHON)
        self.script("uv", UV)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "PYTHON": str(self.stubs / "python"),
            "BACKEND": "cpu",
        }

    def script(self, name: str, text: str) -> None:
        path = self.stubs / name
        path.write_text(text.format(stubs=self.stubs, python=Path(sys.executable).resolve()))
        path.chmod(0o755)

    def set(self, name: str, text: str = "") -> None:
        (self.stubs / name).write_text(text)

    def install(self, name: str, version: str) -> None:
        """Have the stand-in find a package."""
        folder = self.stubs / "site" / f"{name}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", "requirements/setup.sh", *arguments],
            cwd=self.root,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def setup(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """(exit status, output). Far below the 30 seconds for which a forgotten ticker would hold the output open."""
        process = self.start(*arguments, **environment)
        said, _ = process.communicate(timeout=20)
        return process.returncode, said

    def log(self) -> list[str]:
        path = self.stubs / "log"
        return path.read_text().splitlines() if path.exists() else []

    def calls(self, *words: str) -> int:
        return sum(all(word in line for word in words) for line in self.log())


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_uv_installs_the_lock_and_says_each_phase(project: Project) -> None:
    status, said = project.setup()
    assert status == 0, said
    assert project.calls("uv pip install", "-r .venv/packages.txt") == 1
    assert project.calls("uv pip install", "-e .") == 1
    assert not project.calls("-m pip", "-r ")
    for phase in (
        "making .venv",
        "2 pinned packages (cpu) with uv",
        "the project itself with uv",
        "done in",
    ):
        assert phase in said


def test_the_second_time_nothing_is_done(project: Project) -> None:
    project.setup()
    before = project.log()
    assert project.setup() == (0, f"setup: .venv is ready (cpu, Python {sys.version.split()[0]})\n")
    assert project.setup("--quiet") == (0, "")
    assert project.log() == before


def test_a_changed_lock_is_installed_into_the_same_venv(project: Project) -> None:
    project.setup()
    (project.root / "requirements/cpu.txt").write_text("numpy==2.1\ntorch==9.9.9\n")
    assert project.setup()[0] == 0
    assert project.calls("new-venv") == 1 and project.calls("uv pip install", "-r ") == 2


def test_torch_is_left_to_pip_where_it_is_there(project: Project) -> None:
    project.install("torch", "9.9.9+cpu")
    assert project.setup()[0] == 0
    assert (project.root / ".venv/packages.txt").read_text() == "numpy==2.0\n"
    assert not project.calls("-m pip", "torch==")


def test_what_is_there_is_not_installed_again(project: Project) -> None:
    project.install("torch", "9.9.9")
    project.install("numpy", "2.0")
    assert project.setup()[0] == 0
    assert not project.calls("-r ") and project.calls("uv pip install", "-e .") == 1


def test_without_uv_pip_installs(project: Project) -> None:
    (project.stubs / "uv").unlink()
    status, said = project.setup()
    assert status == 0 and "cannot be had" in said
    assert project.calls("-m pip", "--no-deps -r .venv/packages.txt") == 1
    assert project.calls("-m pip", "-e .") == 1


def test_where_uv_fails_pip_installs_and_the_reason_is_said(project: Project) -> None:
    project.set("uv-fails")
    status, said = project.setup()
    assert status == 0 and "no wheel for this machine" in said
    assert project.calls("-m pip", "-r .venv/packages.txt") == 1
    assert project.calls("-m pip", "-e .") == 1 and project.calls("uv pip install") == 1


def test_pip_can_be_asked_for(project: Project) -> None:
    assert project.setup(INSTALLER="pip")[0] == 0
    assert not project.calls("pip uv") and project.calls("-m pip", "-r .venv/packages.txt") == 1


def test_an_interrupted_first_run_is_gone_on_with(project: Project) -> None:
    project.set("pip-fails")
    project.set("uv-fails")
    assert project.setup()[0] != 0
    assert not (project.root / ".venv/.ready").exists()
    (project.stubs / "pip-fails").unlink()
    status, said = project.setup()
    assert status == 0 and "replacing" not in said and project.calls("new-venv") == 1


def test_a_moved_venv_is_replaced(project: Project) -> None:
    project.setup()
    project.root = project.root.rename(project.root.with_name("elsewhere"))
    status, said = project.setup()
    assert status == 0 and "replacing .venv" in said and project.calls("new-venv") == 2


def test_a_wrong_backend_or_python_is_one_line(project: Project) -> None:
    for wrong in ({"BACKEND": "tpu"}, {"PYTHON": "/nowhere/python"}):
        status, said = project.setup(**wrong)
        assert status == 2 and said.startswith("error: ") and said.count("\n") == 1


def test_it_says_that_it_still_runs(project: Project) -> None:
    project.set("seconds", "1.5")
    status, said = project.setup(INSTALLER="pip", SETUP_TICK="1")
    assert status == 0 and "still installing 2 pinned packages (cpu), 1 s" in said


@pytest.mark.parametrize("with_flock", [True, False])
def test_two_at_once_make_one_venv(project: Project, tmp_path: Path, with_flock: bool) -> None:
    if with_flock and not shutil.which("flock"):
        pytest.skip("no flock on this system")
    if not with_flock:
        without_flock(project, tmp_path)
    project.set("seconds", "1")
    both = [project.start(INSTALLER="pip") for _ in range(2)]
    said = [process.communicate(timeout=40)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert project.calls("new-venv") == 1 and project.calls("-m pip", "-r ") == 1
    assert sum("waiting for another set-up" in text for text in said) == 1
    assert not (project.root / ".venv-lock").exists()


def test_a_lock_whose_owner_is_gone_is_taken_over(project: Project, tmp_path: Path) -> None:
    without_flock(project, tmp_path)
    gone = subprocess.Popen(["true"])
    gone.wait()
    (project.root / ".venv-lock").mkdir()
    (project.root / ".venv-lock/pid").write_text(str(gone.pid))
    assert project.setup()[0] == 0
    assert not (project.root / ".venv-lock").exists()


def without_flock(project: Project, home: Path) -> None:
    """A PATH with what the script needs, but flock."""
    tools = home / "tools"
    tools.mkdir()
    needed = "bash env dirname cat cut grep sed mkdir rm mv cp sleep uname tail sha256sum shasum python3"
    for name in needed.split():
        found = shutil.which(name)
        if found:
            (tools / name).symlink_to(found)
    project.environment["PATH"] = str(tools)


def helper(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, REQUIREMENTS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_only_what_applies_here_and_is_not_there_is_missing() -> None:
    lock = "# a comment\na-b==1.0\nc==2.0\nd==3.0 ; sys_platform == 'nowhere'\ne[x]==4 ; sys_platform != 'nowhere'\n"
    assert helper("missing").missing(lock, {"a-b": "1.0", "c": "2.1"}) == [
        "c==2.0",
        "e[x]==4 ; sys_platform != 'nowhere'",
    ]


@pytest.fixture(scope="module")
def pip_to_uv() -> ModuleType:
    return helper("pip_to_uv")


def test_uv_is_told_what_pip_is_configured_with(pip_to_uv: ModuleType) -> None:
    listing = (
        "global.index-url='https://one.example/simple'\ninstall.index-url='https://two.example/simple'\n"
        "global.extra-index-url='\\nfile:///a\\nfile:///b'\n:env:.find-links='/wheels'\nglobal.cert='/ca.pem'\n"
    )
    said = pip_to_uv.translate(pip_to_uv.settings(listing), {})
    assert said == {
        "UV_DEFAULT_INDEX": "https://two.example/simple",
        "UV_INDEX": "file:///a file:///b",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "/wheels",
        "SSL_CERT_FILE": "/ca.pem",
    }
    assert pip_to_uv.translate({"cert": "/ca.pem"}, {"SSL_CERT_FILE": "/mine.pem"}) == {}


def test_a_setting_that_uv_cannot_follow_means_pip(pip_to_uv: ModuleType) -> None:
    assert pip_to_uv.translate({"no-index": "true"}, {}) is None
    assert pip_to_uv.translate({"no-index": "false"}, {}) == {}


def test_pips_index_reaches_uv_unharmed_by_the_shell(project: Project) -> None:
    project.set("pip-config", "global.index-url='https://user:a$(touch oops)@index.example/simple'\n")
    assert project.setup()[0] == 0
    assert project.calls("uv pip install", "index=https://user:a$(touch oops)@index.example/simple") == 2
    assert not (project.root / "oops").exists()
