"""What is looked at before a training starts: its labels, and rows that are too long for it."""

from __future__ import annotations

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
    def __init__(self, ids: list[int], labels: list[int]) -> None:
        self.batch = {"input_ids": Batch([ids]), "labels": Batch([labels])}

    def get_train_dataloader(self) -> list[dict[str, Batch]]:
        return [self.batch]


def test_labels_are_looked_at_before_training() -> None:
    shown = finetune.check_labels(Trainer([1, 2, 3, 9, 0], [-100, -100, 3, 9, -100]), Tokenizer())
    assert shown == [LabelRow(prompt="1 2", labels="3 9")]
    for labels, said in (
        ([-100] * 5, "no unmasked label"),
        ([1, 2, 3, 9, -100], "covers the prompt"),
        ([-100, -100, 3, -100, -100], "misses the EOS"),
    ):
        with pytest.raises(UserError, match=said):
            finetune.check_labels(Trainer([1, 2, 3, 9, 0], labels), Tokenizer())


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
