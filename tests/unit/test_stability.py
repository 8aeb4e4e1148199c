"""How much the selections of some runs agree, against what chance gives."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from synthetic_run import write_run

from evaluation import stability
from evaluation.overlap import chance


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), seeds=(0, 1, 2), n=4)


def test_chance_is_that_of_random_sets() -> None:
    rng = random.Random(0)
    drawn = []
    for _ in range(20000):
        a, b = set(rng.sample(range(18), 9)), set(rng.sample(range(18), 6))
        drawn.append(len(a & b) / len(a | b))
    mean, low, high, p = chance(18, 9, 6, 5)
    assert mean == pytest.approx(sum(drawn) / len(drawn), abs=0.005)
    assert sum(low <= x <= high for x in drawn) / len(drawn) >= 0.95
    assert p == pytest.approx(sum(x >= 5 / 10 for x in drawn) / len(drawn), abs=0.01)


def test_every_two_seeds_at_every_tau(run: Path) -> None:
    rows = stability.pairs(stability.members([run]))
    assert len(rows) == 9  # three pairs, three tau
    assert {row.differs for row in rows} == {("seed",)}
    members = stability.members([run])
    for row in rows:
        one, other = (
            next(m for m in members if f"seed {m.record.seed}" in name) for name in (row.one, row.other)
        )
        a, b = one.merged[row.tau], other.merged[row.tau]
        assert row.jaccard == len(a & b) / len(a | b) and row.sizes == (len(a), len(b))
        assert -1 <= row.kendall <= 1 and -1 <= row.kendall_ratio <= 1


def test_a_run_agrees_with_itself_and_a_shared_one_counts_once(run: Path, tmp_path: Path) -> None:
    assert len(stability.members([run, run.parent])) == 3
    copy = write_run(tmp_path / "copy", seeds=(0,), n=4)
    rows = stability.pairs([stability.members([run])[0], *stability.members([copy])])
    assert all((row.jaccard, row.kendall, row.differs) == (1, pytest.approx(1), ()) for row in rows)
    assert all(row.p < 0.05 and row.expected < 0.7 for row in rows if row.tau == "q0.5")


def test_the_command_writes_a_page_and_a_figure(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "deep" / "stability.md"
    assert stability.main([str(run.parent), "--output", str(page)]) == 0
    text = page.read_text()
    assert text.count("| smollm2-135m |") == 9 and "stability.png" in text
    assert page.with_suffix(".png").exists() and "Jaccard" in capsys.readouterr().out


def test_what_cannot_be_compared_is_said(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    single = write_run(tmp_path / "single", seeds=(0,), n=4)
    page = tmp_path / "page.md"
    assert stability.main([str(single), "--output", str(page)]) == 2
    assert "two seeds or more" in capsys.readouterr().err and not page.exists()
    assert stability.main([str(tmp_path), "--output", str(page)]) == 2
    assert "run.json" in capsys.readouterr().err
