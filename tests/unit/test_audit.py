"""`make audit`: what it says and how it ends, by the answers of a pip-audit that is not there."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements"
TABLE = "Name  Version ID Fix Versions\n----- ------- -- ------------\n"
#: Knows of requests 2.19.0 if it `knows`, and of numpy 1.0 unless that is ignored.
STAND_IN = """#!/bin/sh
[ "$1" = --version ] && { echo "pip-audit VERSION"; exit 0; }
echo "$@" >> "$(dirname "$0")/asked"
case "$2" in
    */known.txt) if KNOWS; then printf 'TABLErequests 2.19.0 CVE-1 2.20\n'; exit 1; fi; echo "none" >&2; exit 0 ;;
    *cpu.txt)
        case "$*" in *CVE-2*) exit 0 ;; esac
        printf 'TABLEnumpy 1.0 CVE-2 1.1\n'; exit 1 ;;
esac
exit 0
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "requirements").mkdir()
    for name in ("audit.sh", "audit-ignored.txt"):
        shutil.copy(REQUIREMENTS / name, tmp_path / "requirements" / name)
    for name in ("cpu", "cuda"):
        (tmp_path / "requirements" / f"{name}.txt").write_text("numpy==1.0\n")
    return tmp_path


def audit(root: Path, *, knows: bool = True) -> subprocess.CompletedProcess[str]:
    text = (REQUIREMENTS / "audit.sh").read_text()
    version = text.split("version=")[1].split()[0]
    stub = root / ".venv-audit" / "bin" / "pip-audit"
    stub.parent.mkdir(parents=True, exist_ok=True)
    stub.write_text(
        STAND_IN.replace("VERSION", version)
        .replace("KNOWS", "true" if knows else "false")
        .replace("TABLE", TABLE.replace("\n", "\\n"))
    )
    stub.chmod(0o755)
    command = ["bash", str(root / "requirements" / "audit.sh")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_what_is_known_ends_it_with_1_and_is_shown(root: Path) -> None:
    done = audit(root)
    assert done.returncode == 1 and "numpy 1.0 CVE-2 1.1" in done.stdout
    assert "requirements/cuda.txt: 1 packages, 0 not audited" in done.stdout
    assert done.stderr.startswith("audit: mend by raising") and done.stderr.count("\n") == 1


def test_what_is_ignored_with_a_reason_is_passed_over(root: Path) -> None:
    with (root / "requirements" / "audit-ignored.txt").open("a") as stream:
        stream.write("CVE-2 numpy's build is not ours\n")
    done = audit(root)
    assert done.returncode == 0 and "CVE-2" not in done.stdout
    assert "--ignore-vuln CVE-2" in (root / ".venv-audit" / "bin" / "asked").read_text()


def test_no_reason_is_no_exception(root: Path) -> None:
    with (root / "requirements" / "audit-ignored.txt").open("a") as stream:
        stream.write("CVE-2\n")
    done = audit(root)
    assert done.returncode == 2 and "CVE-2 has no reason" in done.stderr and done.stderr.count("\n") == 1


def test_an_index_without_advisories_is_not_taken_for_a_clean_one(root: Path) -> None:
    done = audit(root, knows=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: no advisory database is reached") and done.stderr.count("\n") == 1


def test_every_exception_in_the_tree_has_a_reason() -> None:
    for line in (REQUIREMENTS / "audit-ignored.txt").read_text().splitlines():
        assert line.startswith("#") or len(line.split()) > 3, line
