"""What every judge is given holds the prompt and the reply, whatever its template or tokenizer makes of them."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from tokenizers import normalizers

from data.schema import Completion
from evaluation.guard_format import GraniteGuardian, GuardFormat, LlamaGuard, ShieldGemma, SmallGuard
from evaluation.probe import Reader
from evaluation.server_judge import asked
from pipeline.stages.judge import guard_ids
from safemerge.errors import UserError
from tests.finished_run import tokenizer

TURNS = "{% for m in messages %}<turn> {{ m['role'] }} {{ m['content'] }} {% endfor %}"
PARTS = "{% for m in messages %}<turn> {{ m['role'] }} {{ m['content'][0]['text'] }} {% endfor %}"
OTHER = "{% for m in conversation %}<turn> {{ m['content'] }} {% endfor %}<turn> assistant"
LAST = "<turn> {{ messages[-1]['content'] }}"
BEGINNING = "{% for m in messages %}<turn> {{ m['content'][:60] }} {% endfor %}"
LONG = "how are you " * 30 + "fine ok"


@pytest.mark.parametrize("template", [TURNS, PARTS])
@pytest.mark.parametrize(
    "guard", [LlamaGuard(), GraniteGuardian(), SmallGuard()], ids=["Llama-Guard", "Granite", "trained here"]
)
def test_templates_that_render_the_turns(guard: GuardFormat, template: str) -> None:
    tok = tokenizer(template if isinstance(guard.prompt("a", "b"), list) else TURNS)
    [ids] = guard_ids(tok, guard, None, "how are you", "fine ok")
    read = tok.decode(ids)
    assert "how are you" in read and "fine ok" in read


@pytest.mark.parametrize(
    ("guard", "template", "what"),
    [
        (LlamaGuard(), OTHER, "prompt"),
        (LlamaGuard(), LAST, "prompt"),
        (GraniteGuardian(), LAST, "prompt"),
        (LlamaGuard(), BEGINNING, "prompt"),
        (SmallGuard(), OTHER, "prompt"),
        (SmallGuard(), BEGINNING, "prompt"),
        (SmallGuard(), "<turn> Request: how are you {{ messages[-1]['content'][:4] }}", "reply"),
    ],
)
def test_a_template_that_loses_a_text_is_one_line(guard: GuardFormat, template: str, what: str) -> None:
    """Its judge would call everything safe."""
    prompt = LONG if template == BEGINNING else "how are you"
    with pytest.raises(UserError, match=f"lacks the {what}"):
        guard_ids(tokenizer(template), guard, None, prompt, "fine ok")


def test_the_end_of_a_reply_that_a_template_cuts_is_missed() -> None:
    with pytest.raises(UserError, match="lacks the reply, or its end"):
        guard_ids(tokenizer(BEGINNING), LlamaGuard(), None, "how are you", LONG)


def test_an_empty_reply_can_be_judged() -> None:
    tok = tokenizer(TURNS)
    assert guard_ids(tok, LlamaGuard(), None, "how are you", "")[0]


POLICY = "<bos>{% for m in messages %}<turn> {{ m['content'] }} {% endfor %}{{ guideline }} Yes or No?"


def test_each_policy_is_asked_about_alone() -> None:
    tok = tokenizer(POLICY)
    read = [tok.decode(ids) for ids in guard_ids(tok, ShieldGemma(), None, "how are you", "fine ok")]
    assert len(read) == len(ShieldGemma.policies) == 4
    for text, policy in zip(read, ShieldGemma.policies.values(), strict=True):
        assert "how are you" in text and "fine ok" in text and text.endswith("Yes or No?")
        assert [other in text for other in ShieldGemma.policies.values()].count(True) == 1 and policy in text


def test_a_template_that_ignores_the_policy_is_one_line() -> None:
    with pytest.raises(UserError, match="lacks the policy"):
        guard_ids(tokenizer(TURNS), ShieldGemma(), None, "how are you", "fine ok")


def test_letters_in_another_form_are_the_same_letters() -> None:
    """Some tokenizers compose accents; a letter and its accent are then one character."""
    tok = tokenizer(TURNS)
    tok.backend_tokenizer.normalizer = normalizers.NFC()
    assert guard_ids(
        tok, LlamaGuard(), None, "how are you", unicodedata.normalize("NFD", "caf\u00e9 au lait")
    )


class Losing:
    """A tokenizer that drops a word."""

    name_or_path, eos_token_id = "a tokenizer", 0

    def __init__(self, word: str) -> None:
        self.word = word

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text.replace(self.word, "")]}

    def decode(self, ids: list[int], **options: Any) -> str:
        return "".join(map(chr, ids))


@pytest.mark.parametrize(
    ("word", "missing"), [("are", "prompt"), ("fine", "reply"), ("ok", "reply"), ("none of them", "")]
)
def test_the_probe_reads_both_texts(word: str, missing: str) -> None:
    reader = Reader.__new__(Reader)
    reader.tokenizer = Losing(word)
    if missing:
        with pytest.raises(UserError, match=f"lacks the {missing}"):
            reader._encode("how are you", "fine ok", 60)
    else:
        assert reader._encode("how are you", "fine ok", 60)


def test_the_probe_leaves_out_the_end_of_a_long_reply_on_purpose() -> None:
    reader = Reader.__new__(Reader)
    reader.tokenizer = Losing("none of them")
    ids, start = reader._encode("how are you", LONG, 60)
    assert len(ids) - start == 60


@pytest.mark.parametrize("text", ["how are you", "{completion}", "{prompt}", "\0", "\\1 {x}", ""])
def test_what_a_server_is_asked_holds_both_texts(text: str) -> None:
    """Whatever they hold: neither is read as a place for the other."""
    found = asked("Asked: {prompt}. Said: {completion}.", Completion("a", f"P {text}", f"R {text}"))
    assert found == f"Asked: P {text}. Said: R {text}."
