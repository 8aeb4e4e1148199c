"""Its benchmark: the reply holds the word's letters, one after the other. An instance: `cat` is `c-a-t`."""

from collections.abc import Sequence

from data.schema import Completion, Item
from evaluation.benchmarks.common import Scored, pair


def score(items: Sequence[Item], completions: Sequence[Completion]) -> list[Scored]:
    """Correct if the spelling stands in the reply; invalid if no letter does."""
    return [
        Scored(
            item.id,
            item.half,
            outcome=item.reference in reply.completion,
            invalid=not any(ch.isalpha() for ch in reply.completion),
            category=item.category,
        )
        for item, reply in pair(items, completions)
    ]
