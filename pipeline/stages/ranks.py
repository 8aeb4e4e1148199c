"""TRL's SFTTrainer in several processes (ranks), on the very batches that one process trains on.

accelerate gives each rank every n-th batch of the order that one process would take. Two things would still change what is
trained: it fills up the last round of an epoch with rows from its beginning, which then count twice, and batches by length
are drawn in groups of a rank's batch instead of all ranks' together. Both are mended here; the loss needs nothing, as TRL
divides it by the answer tokens of all ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import BatchSampler
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTTrainer


class Filled(BatchSampler):
    """Another sampler's batches, the last ones filled up with a blank row until each of `ranks` has a full one."""

    def __init__(self, batches: BatchSampler, ranks: int, blank: int) -> None:
        super().__init__(batches.sampler, batches.batch_size, drop_last=False)
        self.batches, self.ranks, self.blank = batches, ranks, blank

    def __len__(self) -> int:
        return -(-len(self.batches) // self.ranks) * self.ranks

    def __iter__(self) -> Iterator[list[int]]:
        given = 0
        for given, batch in enumerate(self.batches, 1):  # noqa: B007 - how many there were
            yield batch + [self.blank] * (self.batch_size - len(batch))
        for _ in range(len(self) - given):
            yield [self.blank] * self.batch_size


class RankTrainer(SFTTrainer):
    """One of several ranks. Its data set ends with a blank row, which has no loss and fills up the last batches."""

    train_dataset: Any

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.rows = len(self.train_dataset)
        self.blank = [self.processing_class.eos_token_id] * 2
        self.train_dataset = self.train_dataset.add_item({"input_ids": self.blank, "labels": [-100] * 2})

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        sampler = super()._get_train_sampler(self.train_dataset.select(range(self.rows)))
        if isinstance(sampler, LengthGroupedSampler):
            sampler.batch_size *= self.args.world_size
        return sampler

    def get_train_dataloader(self) -> Any:
        """The batches of this rank; each epoch's order is drawn from the first rank's generator."""
        loader = super().get_train_dataloader()
        shard = loader.batch_sampler
        shard.batch_sampler = Filled(shard.batch_sampler, self.args.world_size, self.rows)
        loader.rng_types = ["torch"]
        return loader
