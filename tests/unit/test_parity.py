"""The engine check tells an adapter from none and from another one, over tokens that it was given as the engine's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from data.schema import Completion
from pipeline.adapted import on_adapters
from pipeline.stages import parity
from pipeline.stages.parity import CLIP, Read, read, summary
from tests.conftest import Pico

PROMPTS = {f"p{i}": [3 + i, 7, 11 + 2 * i] for i in range(6)}


@pytest.fixture(autouse=True)
def ids_of_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "prompt_ids", lambda tokenizer, prompt, *, system: PROMPTS[prompt])


def written(model: Any, prompt: list[int], count: int = 12) -> tuple[list[int], float]:
    """A greedy engine's tokens, and how likely it finds them."""
    ids, total = list(prompt), 0.0
    for _ in range(count):
        with torch.inference_mode():
            scores = model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        ids.append(int(scores.argmax()))
        total += float(scores.max())
    return ids[len(prompt) :], total


def served(pico: Pico, adapter: Path | None) -> list[Completion]:
    """What an engine that serves this adapter writes."""
    rows = []
    for _, model in on_adapters(str(pico.aligned), "float32", [adapter]):
        for key, prompt in PROMPTS.items():
            ids, logprob = written(model, prompt)
            rows.append(Completion(key, key, "", 3, len(ids), "length", ids, logprob))
    return rows


def compared(pico: Pico, rows: list[Completion], adapter: Path) -> Any:
    for _, model in on_adapters(str(pico.aligned), "float32", [adapter]):
        found = [read(model, None, row, None) for row in rows]
        with model.disable_adapter():
            return summary(rows, found, [read(model, None, row, None) for row in rows])


def test_the_right_adapter(pico: Pico) -> None:
    found = compared(pico, served(pico, pico.task), pico.task)
    assert found.tokens == found.likeliest == 72 and found.off == 0 and found.prompts == list(PROMPTS)
    assert abs(found.excess) < 1e-4 < 0.01 < found.bare_excess


@pytest.mark.parametrize("other", ["safety", None])
def test_an_engine_that_served_another_adapter_or_none(pico: Pico, other: str | None) -> None:
    rows = served(pico, getattr(pico, other) if other else None)
    found = compared(pico, rows, pico.task)
    assert found.excess > 0.01
    assert other or abs(found.bare_excess) < 1e-4


def test_one_wide_gap_does_not_decide_but_many_do() -> None:
    """A token that was re-tokenised weighs at most one nat; an adapter that was not applied is off at many tokens."""
    row = Completion("a", "a", "")
    one, many = ([Read([0.0] * n + [9.0] * wide, 0.0)] for n, wide in ((91, 1), (60, 32)))
    assert summary([row], one).mean_gap == pytest.approx(CLIP / 92) and summary([row], one).off == 1
    assert summary([row], many).mean_gap > 0.1 and summary([row], many).off == 32
    assert summary([], []).tokens == 0 and summary([], []).mean_gap == 0.0
