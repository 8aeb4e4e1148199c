"""Jobs of one worker may ask with different system prompts (PTST beside the others): each is asked with its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data.chat import Encoded
from data.schema import Item, write_jsonl
from evaluation.engine import Reply
from pipeline import artifacts
from pipeline.job import Job, begin
from pipeline.stage_settings import Generate, Likelihood
from pipeline.stages import generate, likelihood
from pipeline.unkeyed import NOTHING, Engine

SYSTEMS = [None, "Be safe.", None]
NUMBER = {None: 1, "Be safe.": 2}


@pytest.fixture
def items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import transformers

    folder = tmp_path / "items"
    folder.mkdir()
    rows = [Item(f"i{n}", f"prompt {n}", answer="an answer", half="test") for n in range(2)]
    write_jsonl(folder / artifacts.ROWS, rows)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda folder: None)
    for stage in (generate, likelihood):
        monkeypatch.setattr(stage, "prompt_ids", lambda _, prompt, *, system: [NUMBER[system]])
    begin(len(SYSTEMS))
    return folder


def jobs(folder: Path, settings: list[Any], unkeyed: Any) -> list[Job]:
    made = []
    for number, its in enumerate(settings):
        output = folder.parent / str(number)
        output.mkdir()
        made.append(Job(str(number), its.keyed(), unkeyed, {"items": folder, "model": folder.parent}, output))
    return made


def test_completions(items: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, list[int]] = {}

    def engine(folder: str, requests: list[Any], **settings: Any) -> Iterator[Reply]:
        for request in requests:
            asked[request.key] = request.prompt_ids
            yield Reply(request.key, "", 1, "stop")

    monkeypatch.setattr(generate, "generate", engine)
    settings = [Generate("transformers", "float32", 8, "test", its, 0.0, None, None) for its in SYSTEMS]
    generate.run(jobs(items, settings, Engine(1, 1, 0.5, 1)))
    assert asked == {f"{j}:i{n}": [NUMBER[its]] for j, its in enumerate(SYSTEMS) for n in range(2)}


@pytest.mark.parametrize("measure", ["reference_bits", "refusal_log_odds"])
def test_likelihoods(measure: Any, items: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fakes say as their value which system prompt they were asked with."""
    monkeypatch.setattr(
        likelihood, "example_ids", lambda _, prompt, answer, *, system: Encoded([NUMBER[system]], [1])
    )
    monkeypatch.setattr(likelihood, "opening_ids", lambda _, texts, system: [[NUMBER[system]]])
    monkeypatch.setattr(
        likelihood, "reference_bits", lambda model, rows, progress: [float(row.input_ids[0]) for row in rows]
    )
    monkeypatch.setattr(
        likelihood,
        "refusal_log_odds",
        lambda model, prompts, openings, progress: [(p[0] + openings[0][0]) / 2 for p in prompts],
    )
    monkeypatch.setattr(likelihood, "added_to", lambda folder, dtype, adapters: enumerate(adapters))
    settings = [Likelihood(measure, ["No"], "test", "", None, "float32", its) for its in SYSTEMS]
    made = jobs(items, settings, NOTHING)
    likelihood.run(made)
    found = [[row.value for row in artifacts.measures(job.output)] for job in made]
    assert found == [[NUMBER[its]] * 2 for its in SYSTEMS]
