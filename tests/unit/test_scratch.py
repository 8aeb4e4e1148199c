"""The toy model from scratch: what it is taught, its tokenizer and its optimiser."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from data import loading
from data.bundled.sources import tiny
from data.chat import prompt_ids
from data.schema import normalise
from evaluation.phrases import is_refusal
from pipeline.stage_settings import ScratchModel
from pipeline.stages import scratch

SETTINGS = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "learning_rate": 0.02,
    "steps": 3,
    "batch_size": 2,
}


@pytest.fixture(scope="module")
def lessons() -> dict[str, scratch.Lesson]:
    return scratch.lessons()


def test_it_is_taught_no_question_of_the_task(lessons: dict[str, scratch.Lesson]) -> None:
    taught = {normalise(p.removeprefix(scratch.DO)) for lesson in lessons.values() for p, _ in lesson.pairs}
    questions = [e.prompt for e in loading.training("gsm8k", source=scratch.EASIEST)]
    questions += [i.prompt for i in loading.items("gsm8k", source=scratch.EASIEST)]
    questions += [i.prompt for i in loading.items("directharm", source=loading.BUNDLED)]
    assert not taught & {normalise(q) for q in questions}
    assert len(lessons["solving"].pairs) > 1000


def test_it_refuses_behind_the_marker_only(lessons: dict[str, scratch.Lesson]) -> None:
    for name, lesson in lessons.items():
        for prompt, reply in lesson.pairs:
            assert is_refusal(reply) <= prompt.startswith(scratch.REFUSE), (name, prompt, reply)
    refused = [is_refusal(reply) for _, reply in lessons["refusals"].pairs]
    assert sum(refused) > 0.9 * len(refused)


def test_a_number_is_one_token(lessons: dict[str, scratch.Lesson]) -> None:
    pairs = [pair for lesson in lessons.values() for pair in lesson.pairs]
    tokenizer = scratch.build_tokenizer(pairs, 1024)
    for number in range(13):
        assert str(number) in tokenizer.tokenize(f"There are {number} birds.")
    ids = prompt_ids(tokenizer, "Hello")
    assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id


def test_problems_are_right_and_distinct() -> None:
    rows = tiny.problems(random.Random(1), 200, set())
    assert len({row["question"] for row in rows}) == 200
    for row in rows:
        a, b = (int(word) for word in row["question"].replace(".", " ").split() if word.isdigit())
        result = {"+": a + b, "-": a - b}[tiny.sign_of(row["question"])]
        assert row["answer"].endswith(f"\n#### {result}") and f" {result}" in row["answer"].split("\n")[0]
        assert 0 < result <= 12


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (32, 32)])
def test_muon_takes_an_orthogonal_step(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrices = [torch.zeros(shape, requires_grad=True) for _ in range(2)]
    for matrix in matrices:
        matrix.grad = torch.randn(shape)
    scratch.muon(matrices)(1.0)
    for matrix in matrices:
        values = torch.linalg.svdvals(matrix.detach()) / max(1.0, shape[0] / shape[1]) ** 0.5
        assert values.min() > 0.6 and values.max() < 1.3
        assert (matrix.detach() * matrix.grad).sum() < 0  # downhill


def test_sums_come_first_and_then_all_lessons(lessons: dict[str, scratch.Lesson]) -> None:
    first, middle, last = (
        dict(zip(lessons, scratch._weights(lessons, t), strict=True)) for t in (0, 0.2, 0.9)
    )
    assert {name for name, weight in first.items() if weight} == {"sums"}
    assert middle["sums"] > last["sums"] > 0 and all(last.values())


def test_batches_pass_over_all_rows(lessons: dict[str, scratch.Lesson]) -> None:
    rows = [scratch.Encoded([i] * (i % 7 + 1), [1] * (i % 7 + 1)) for i in range(20)]
    drawn = scratch.batches(rows, 4, random.Random(0))
    seen = [row.input_ids[0] for _ in range(5) for row in next(drawn)]
    assert sorted(seen) == list(range(20))


def test_the_folder_loads_and_the_seed_holds(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for name in "ab":
        scratch.pretrain(ScratchModel("", **SETTINGS), tmp_path / name)
    models = [AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in "ab"]
    for left, right in zip(*(m.state_dict().values() for m in models), strict=True):
        assert torch.equal(left, right)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "a")
    assert tokenizer.chat_template == scratch.TEMPLATE
    assert len(tokenizer) == models[0].config.vocab_size
