"""What is looked at before a training starts: its labels, and rows that are too long for it."""

from __future__ import annotations

import os

import pytest

from data.chat import Encoded
from pipeline.artifacts import LabelRow
from pipeline.stages import finetune
from safemerge.errors import UserError


class Tokenizer:
    eos_token_id = 9

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))


class Batch(list):
    def tolist(self) -> list[list[int]]:
        return list(self)


class Trainer:
    def __init__(self, *rows: tuple[list[int], list[int], list[int]]) -> None:
        """Each row: ids, attention mask, labels."""
        names = ("input_ids", "attention_mask", "labels")
        self.batch = {
            name: Batch(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)
        }

    def get_train_dataloader(self) -> list[dict[str, Batch]]:
        return [self.batch]


ROWS = [Encoded([4, 5, 9], [0, 1, 1]), Encoded([1, 2, 3, 9], [0, 0, 1, 1])]
USED = [1, 1, 1, 1, 0]


def test_labels_are_looked_at_before_training() -> None:
    right = Trainer(([1, 2, 3, 9, 0], USED, [-100, -100, 3, 9, -100]))
    assert finetune.check_labels(right, Tokenizer(), ROWS) == [LabelRow(prompt="1 2", labels="3 9")]
    left = Trainer(([0, 1, 2, 3, 9], USED[::-1], [-100, -100, -100, 3, 9]))
    assert finetune.check_labels(left, Tokenizer(), ROWS) == [LabelRow(prompt="1 2", labels="3 9")]


MODULES = ["model", "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj", "lm_head"]


def test_each_target_is_a_module_of_the_model() -> None:
    """PEFT says nothing while one of them is."""
    for right in (["q_proj", "up_proj"], ["self_attn.q_proj"], "all-linear", ".*q_prj"):
        finetune.check_targets(MODULES, right)
    for wrong in (["q_proj", "q_prj"], ["proj"]):
        with pytest.raises(UserError, match=f"no module {wrong[-1]}; it has q_proj, up_proj"):
            finetune.check_targets(MODULES, wrong)
    with pytest.raises(UserError, match="no LoRA on lm_head"):
        finetune.check_targets(MODULES, ["q_proj", "lm_head"])


@pytest.mark.parametrize(
    "labels",
    [
        [-100] * 5,
        [1, 2, 3, 9, -100],
        [-100, 2, 3, 9, -100],  # half of the prompt
        [-100, -100, -100, 9, -100],  # the end of the answer
        [-100, -100, 3, -100, -100],
        [-100, -100, 3, 4, -100],  # another token than what is read
    ],
)
def test_a_loss_on_anything_but_the_answer_and_its_eos_is_refused(labels: list[int]) -> None:
    with pytest.raises(UserError, match="where its answer and EOS have 2"):
        finetune.check_labels(Trainer(([1, 2, 3, 9, 0], USED, labels)), Tokenizer(), ROWS)


@pytest.mark.parametrize(
    ("before", "devices", "seen"),
    [(None, 1, "0"), ("3,GPU-b", 1, "3"), ("", 1, ""), (None, 2, None), ("0,1", 2, "0,1")],
)
def test_one_process_sees_one_gpu(
    before: str | None, devices: int, seen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With eight of them in sight the Trainer would take eight times the batch, under the same key."""
    name = "CUDA_VISIBLE_DEVICES"
    monkeypatch.delenv(name, raising=False)
    if before is not None:
        monkeypatch.setenv(name, before)
    with finetune.seen_gpus(devices):
        assert os.environ.get(name) == seen
    assert os.environ.get(name) == before


def test_rows_that_were_joined_or_changed_are_refused() -> None:
    both = Trainer(([4, 5, 9, 1, 2, 3, 9], [1] * 7, [-100, 5, 9, -100, -100, 3, 9]))
    with pytest.raises(UserError, match="none of the training rows; leave packing"):
        finetune.check_labels(both, Tokenizer(), ROWS)
    del both.batch["attention_mask"]
    with pytest.raises(UserError, match="none of the training rows; leave packing"):
        finetune.check_labels(both, Tokenizer(), ROWS)


def test_rows_too_long_are_left_out_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut rows would have no EOS: the model would never learn to stop."""
    monkeypatch.setattr(
        finetune,
        "example_ids",
        lambda t, prompt, response, system: Encoded([1] * len(prompt), [1] * len(prompt)),
    )
    pairs = [("a" * 5, "x")] * 40
    assert len(finetune.encode(None, [*pairs, ("a" * 9, "x")], None, 8)) == 40
    with pytest.raises(UserError, match="max_length=8"):
        finetune.encode(None, [*pairs, *[("a" * 9, "x")] * 10], None, 8)
