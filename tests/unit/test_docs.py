"""What the documents say is there is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
)
#: A path of ours between backticks: a folder of the repository, then names; no placeholders such as NAME, and
#: not the folder of that name in the repository where the Bianchi collection lies.
OURS = re.compile(r"`((?:conf|data|docs|evaluation|pipeline|requirements|safemerge|tests)/[\w./-]*)`")


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page: str) -> None:
    named = {
        path
        for path in OURS.findall((ROOT / page).read_text())
        if not re.search("NAME|MODEL|data/training", path)
    }
    assert len(named) > 50 or page != "docs/architecture.md", "the pattern finds none"
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_every_experiment_has_its_command_on_the_page() -> None:
    text = (ROOT / "docs/replicate.md").read_text()
    names = {path.stem for path in (ROOT / "conf/experiment").glob("*.yaml")}
    assert {name for name in names if f"experiment={name}" not in text} == set()


def test_tau_reaches_the_weights_in_nine_files() -> None:
    """What the architecture page promises; each file is named once."""
    text = (ROOT / "docs/architecture.md").read_text()
    section = text.split("## From tau")[1].split("## ")[0]
    files = OURS.findall(section)
    assert len(files) == len(set(files)) <= 9
