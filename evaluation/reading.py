"""Does a judge read what it judges? The prompt and the reply must be in the text that its token ids decode to."""

from __future__ import annotations

import unicodedata
from typing import Any

from data.schema import normalise
from safemerge.errors import UserError

ENDS = 40  # characters at the beginning and at the end of a text, by which it is found again


def check_reads(tokenizer: Any, ids: list[int], prompt: str, reply: str, what: str = "reply") -> None:
    """Look for both texts in what the ids decode to.

    A template that looks for other fields renders an empty conversation, one with a limit of its own leaves out the end:
    the judge then calls everything safe.

    Raises:
        UserError: the prompt or the reply (or what else `reply` is, by `what`) is not in it.
    """
    read = _plain(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
    for name, text in (("prompt", prompt), (what, reply)):
        its = _plain(text)
        if its[:ENDS] not in read or its[-ENDS:] not in read:
            raise UserError(
                f"what the judge {tokenizer.name_or_path} reads lacks the {name}, or its end: its tokenizer must keep all "
                "letters, and its chat template render what the judge's _target_ gives, in full"
            )


def _plain(text: str) -> str:
    """Letters and digits, in the one form that tokenizers may give them."""
    return normalise(unicodedata.normalize("NFKC", text))
