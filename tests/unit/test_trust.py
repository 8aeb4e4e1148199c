"""docs/trust.md says what the checks say today."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import trust

PAGE = Path(__file__).resolve().parents[2] / "docs" / "trust.md"


@pytest.mark.parametrize("section", [trust.planted, trust.unseen, trust.parsers])
def test_the_page_is_of_today(section) -> None:
    assert section() in PAGE.read_text(encoding="utf-8"), "python -m tests.trust --output docs/trust.md"


def test_the_page_has_every_section_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(trust, "SECTIONS", (lambda: "## First", lambda: "## Second"))
    monkeypatch.setattr("sys.argv", ["trust", "--output", str(tmp_path / "page.md")])
    trust.main()
    assert (tmp_path / "page.md").read_text() == f"{trust.HEAD}\n\n## First\n\n## Second\n"
