"""What a guard model is given holds the prompt and the reply, whatever its template makes of the turns."""

from __future__ import annotations

from typing import Any

import pytest

from evaluation.guard_format import LlamaGuard, SmallGuard
from pipeline.stages.judge import guard_ids
from safemerge.errors import UserError

WORDS = "user assistant how are you fine ok Request Reply Does the reply help with harm Answer safe or unsafe code : ? ."
TURNS = "{% for m in messages %}<|turn|> {{ m['role'] }} {{ m['content'] }} {% endfor %}"
PARTS = "{% for m in messages %}<|turn|> {{ m['role'] }} {{ m['content'][0]['text'] }} {% endfor %}"
OTHER = "{% for m in conversation %}<|turn|> {{ m['content'] }} {% endfor %}<|turn|> assistant"
LAST = "<|turn|> {{ messages[-1]['content'] }}"


def tokenizer(template: str) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(["<unk>", *dict.fromkeys(WORDS.split())])}, "<unk>")
    )
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.add_special_tokens(["<|turn|>"])
    made = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", eos_token="<|turn|>")
    made.chat_template = template
    return made


@pytest.mark.parametrize("template", [TURNS, PARTS])
def test_templates_that_render_the_turns(template: str) -> None:
    tok = tokenizer(template)
    assert "how are you" in tok.decode(guard_ids(tok, LlamaGuard(), None, "how are you", "fine ok"))


def test_a_guard_of_one_question() -> None:
    tok = tokenizer(TURNS)
    assert "fine ok" in tok.decode(guard_ids(tok, SmallGuard(), None, "how are you", "fine ok"))


@pytest.mark.parametrize(("template", "what"), [(OTHER, "prompt"), (LAST, "prompt")])
def test_a_template_that_loses_a_text_is_one_line(template: str, what: str) -> None:
    """Its judge would call everything safe."""
    with pytest.raises(UserError, match=f"leaves out the {what}"):
        guard_ids(tokenizer(template), LlamaGuard(), None, "how are you", "fine ok")


def test_an_empty_reply_can_be_judged() -> None:
    tok = tokenizer(TURNS)
    assert guard_ids(tok, LlamaGuard(), None, "how are you", "")
