"""Continuous measures: each equals what a plain forward pass of every single text says."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch

from data.chat import Encoded
from data.schema import Item
from evaluation import likelihood
from evaluation.causal_model import load_model
from evaluation.likelihood import opening_ids, reference_bits, refusal_log_odds
from pipeline.adapted import added_to, on_adapters
from pipeline.stage_settings import Likelihood
from pipeline.stages import likelihood as stage
from safemerge.errors import UserError
from tests.conftest import Pico
from tests.pico import VOCAB, build_model

RANDOM = random.Random(0)


def ids(length: int) -> list[int]:
    return [RANDOM.randrange(VOCAB) for _ in range(length)]


def log_probability(model: Any, prompt: list[int], text: list[int]) -> float:
    """Of the text after the prompt, in nats, in one forward pass without padding."""
    with torch.inference_mode():
        scores = model(input_ids=torch.tensor([prompt + text])).logits[0].log_softmax(-1)
    return sum(float(scores[len(prompt) + i - 1, token]) for i, token in enumerate(text))


def rows() -> list[tuple[list[int], list[int]]]:
    return [(ids(RANDOM.randrange(3, 12)), ids(RANDOM.randrange(1, 9))) for _ in range(9)]


@pytest.mark.parametrize("tokens", [1, 40, 1024])
def test_bits_per_token_of_the_answer_alone(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "TOKENS", tokens)
    model, texts = build_model(), rows()
    encoded = [Encoded(p + a, [0] * len(p) + [1] * len(a)) for p, a in texts]
    counted: list[int] = []
    found = reference_bits(model, encoded, counted.append)
    wanted = [-log_probability(model, p, a) / len(a) / math.log(2) for p, a in texts]
    assert found == pytest.approx(wanted, rel=1e-4)
    assert counted[-1] == len(texts) and (len(counted) == len(texts)) == (tokens == 1)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_log_odds_of_any_opening(family: str) -> None:
    model = build_model(family)
    prompts = [prompt for prompt, _ in rows()]
    openings = [[3], [5, 6], [5, 7, 8], [9, 1, 2, 4]]
    found = refusal_log_odds(model, prompts, openings)
    for prompt, value in zip(prompts, found, strict=True):
        p = sum(math.exp(log_probability(model, prompt, opening)) for opening in openings)
        assert value == pytest.approx(math.log(p / (1 - p)), abs=1e-3)


def test_openings_of_one_token() -> None:
    model, prompt = build_model(), ids(5)
    p = sum(math.exp(log_probability(model, prompt, [token])) for token in (1, 2))
    assert refusal_log_odds(model, [prompt], [[1], [2]]) == pytest.approx([math.log(p / (1 - p))], abs=1e-3)


def test_a_certain_refusal_has_finite_odds() -> None:
    model, every = build_model(), [[token] for token in range(VOCAB)]
    (found,) = refusal_log_odds(model, [ids(4)], every)
    assert found == pytest.approx(math.log((1 - likelihood.SURE) / likelihood.SURE))


def test_an_opening_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"Sorry": [4], "Sorry, I": [4, 5, 1], "I can't": [1, 2], "I can’t": [1, 3]}

    def encoded(_: Any, prompt: str, response: str, *, system: str | None) -> Encoded:
        return Encoded([9, 9, *texts[response], 0], [0, 0] + [1] * (len(texts[response]) + 1))

    monkeypatch.setattr(likelihood, "example_ids", encoded)
    assert opening_ids(None, list(texts), None) == [[1, 2], [1, 3], [4]]


@pytest.mark.parametrize("walk", [on_adapters, added_to])
def test_each_adapter_answers_for_itself(pico: Pico, walk: Any) -> None:
    prompt, answer = ids(6), ids(4)
    row = Encoded(prompt + answer, [0] * 6 + [1] * 4)
    adapters = [pico.task, None, pico.safety, pico.task]
    found = dict.fromkeys(range(4), 0.0)
    for i, model in walk(str(pico.aligned), "float32", adapters):
        found[i] = reference_bits(model, [row])[0]
    assert found[0] == found[3] and len({found[0], found[1], found[2]}) == 3


def test_the_output_layer_reads_contiguous_states(pico: Pico) -> None:
    """Else torch copies its weights for each row of a batch, in bfloat16 on a CPU."""
    model, seen = load_model(str(pico.aligned), "bfloat16"), []
    model.get_output_embeddings().register_forward_hook(lambda *its: seen.append(its[1][0].is_contiguous()))
    rows = torch.tensor([ids(6), ids(6)])
    with torch.inference_mode():
        last, whole = (model(input_ids=rows, logits_to_keep=keep).logits for keep in (2, 0))
    assert seen == [True, True] and torch.equal(last, whole[:, -2:])


def test_both_ways_of_applying_an_adapter_are_one(pico: Pico) -> None:
    texts = [(ids(6), ids(4)) for _ in range(3)]
    encoded = [Encoded(p + a, [0] * 6 + [1] * 4) for p, a in texts]
    found = []
    for walk in (on_adapters, added_to):
        for _, model in walk(str(pico.aligned), "float32", [pico.task, pico.safety]):
            found += reference_bits(model, encoded)
    assert found[:6] == pytest.approx(found[6:], rel=1e-5) and len(set(found)) > 3


def test_what_openings_have_in_common_is_read_once() -> None:
    tree = likelihood.Tree.of([[3], [5, 6], [5, 7, 8], [5, 7, 9], [9, 1, 2, 4]])
    assert tree.nodes == [(-1, 5), (0, 7), (-1, 9), (2, 1), (3, 2)]
    assert tree.path(4) == [2, 3, 4] and tree.steps[2] == [(-1, 5), (0, 7), (1, 8)]


def test_a_model_without_numbers_is_an_error_and_no_refusal(
    pico: Pico, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As float16 gives them where a state leaves its range."""
    monkeypatch.setattr(stage, "prompt_ids", lambda tokenizer, prompt, *, system: ids(4))
    monkeypatch.setattr(stage, "opening_ids", lambda tokenizer, texts, system: [[3], [5, 6]])
    model = build_model()
    torch.nn.init.constant_(model.lm_head.weight, math.nan)
    settings = Likelihood("refusal_log_odds", ["No"], "dev", "harmful", None, "float16", None)
    with pytest.raises(UserError, match="refusal_log_odds of h1 is nan in float16"):
        stage.Reader(None).measured(model, [Item("h1", "?")], settings, lambda done: None)
