"""Does a test row also occur in the training data?"""

from __future__ import annotations

from dataclasses import dataclass

from data.schema import Example, Item, normalise


@dataclass(frozen=True)
class Overlap:
    """One leak: `by` is "id" or "prompt" (same prompt after `normalise`)."""

    by: str
    train_id: str
    item_id: str


def overlaps(train: list[Example], items: list[Item]) -> list[Overlap]:
    """Every item whose id, or else whose normalised prompt, is in `train`; at most one entry an item."""
    ids = {e.id for e in train}
    prompts = {normalise(e.prompt): e.id for e in train}
    found = []
    for item in items:
        same = prompts.get(normalise(item.prompt))
        if item.id in ids:
            found.append(Overlap("id", item.id, item.id))
        elif same is not None:
            found.append(Overlap("prompt", same, item.id))
    return found
