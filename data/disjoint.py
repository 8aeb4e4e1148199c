"""Does a test row also occur in the training data, to the letter or nearly so?

Two prompts are nearly the same when they name the same numbers in the same order and

- at least 0.8 of their different words, taken together, are in both (Jaccard), or
- at least 0.8 of the test prompt's runs of five words are in the training prompt, which may be longer and name more.

A sum with other numbers is another sum, so numbers decide first. Measured: of the original prompts of GSM8K, PubMedQA,
DirectHarm4, XSTest, AdvBench, HarmBench and Bianchi's evaluation none is near a training row of GSM8K, PubMedQA, Bianchi or
Alpaca, but for the two that Alpaca and I-Alpaca share word by word. None of the bundled test sets is; of the toy's sums 50
of 120 are, as they are meant to be.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from data.schema import Example, Item, normalise

NEAR = 0.8  # OUR CHOICE: a word in five may be another
RUN = 5  # words


@dataclass(frozen=True)
class Overlap:
    """One leak: the same id, the same prompt (after `normalise`), or nearly the same prompt."""

    by: Literal["id", "prompt", "near"]
    train_id: str
    item_id: str


def overlaps(train: Sequence[Example], items: Sequence[Item]) -> list[Overlap]:
    """Every item whose id, or else whose prompt, is in `train`, or nearly; at most one entry an item."""
    ids = {e.id for e in train}
    prompts = {normalise(e.prompt): e.id for e in train}
    rows = _Rows([_Text.of(e.prompt) for e in train])
    found = []
    for item in items:
        same = prompts.get(normalise(item.prompt))
        if item.id in ids:
            found.append(Overlap("id", item.id, item.id))
        elif same is not None:
            found.append(Overlap("prompt", same, item.id))
        elif (near := rows.nearest(_Text.of(item.prompt))) is not None:
            found.append(Overlap("near", train[near].id, item.id))
    return found


@dataclass(frozen=True)
class _Text:
    """A prompt as normalised words."""

    words: tuple[str, ...]

    @classmethod
    def of(cls, prompt: str) -> _Text:
        return cls(tuple(normalise(prompt).split()))

    @cached_property
    def different(self) -> frozenset[str]:
        return frozenset(self.words)

    @cached_property
    def numbers(self) -> tuple[str, ...]:
        return tuple(word for word in self.words if any(ch.isdigit() for ch in word))

    @cached_property
    def runs(self) -> frozenset[tuple[str, ...]]:
        """Of five words each; a shorter prompt is one run."""
        return frozenset(self.words[i : i + RUN] for i in range(max(1, len(self.words) - RUN + 1)))

    def likeness(self, other: _Text) -> float:
        """The larger of the two measures, of a test prompt against a training prompt; 0 where the numbers differ."""
        found = 0.0
        if self.numbers == other.numbers:
            found = len(self.different & other.different) / len(self.different | other.different)
        if _in_order(self.numbers, other.numbers):  # a longer prompt may name more of them
            found = max(found, len(self.runs & other.runs) / len(self.runs))
        return found


def _in_order(few: Sequence[str], many: Sequence[str]) -> bool:
    rest = iter(many)
    return all(one in rest for one in few)


class _Rows:
    """The training prompts, found by their words.

    Only so many of a prompt's words can be missing in a training prompt that it is near to. Among one more of its words
    than that, whichever they are, at least one is there: the rarest lead to few rows.
    """

    def __init__(self, texts: Sequence[_Text]) -> None:
        self.texts = texts
        self.having: defaultdict[str, list[int]] = defaultdict(list)
        for i, text in enumerate(texts):
            for word in text.different:
                self.having[word].append(i)

    def nearest(self, text: _Text) -> int | None:
        """The place of the training prompt that is most like it, if one is near."""
        # A missing word takes a run of its own with it, but for the first four words, which may share one.
        missing = max(_spare(len(text.different)), _spare(len(text.runs)) + RUN - 1)
        rare = sorted(text.different, key=lambda word: len(self.having.get(word, ())))[: missing + 1]
        places = sorted({i for word in rare for i in self.having.get(word, ())})
        likeness = {i: text.likeness(self.texts[i]) for i in places}
        best = max(places, key=likeness.__getitem__, default=None)
        return best if best is not None and likeness[best] >= NEAR else None


def _spare(count: int) -> int:
    """What may differ of `count`."""
    return int((1 - NEAR) * count + 1e-9)
