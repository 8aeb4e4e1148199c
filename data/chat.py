"""The one chat-template path: training, generation and judging all get their token ids here.

Ids are passed on, never strings: a tokenizer that adds BOS to a templated string would double it, which moves
benchmark scores by several percent.
"""

from __future__ import annotations

import datetime
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from safemerge.errors import UserError


@dataclass(frozen=True)
class Encoded:
    """Token ids of one training example; `completion_mask` is 1 on the answer and its EOS, 0 on the prompt."""

    input_ids: list[int]
    completion_mask: list[int]


def check_single_bos(ids: list[int], bos_token_id: int | None) -> None:
    """Raise unless the sequence starts with exactly one BOS, or with none where the template uses none.

    ChatML tokenizers reuse their BOS as the turn marker, so only the head of the sequence is looked at.
    """
    if bos_token_id is not None and ids[:2] == [bos_token_id, bos_token_id]:
        raise UserError(
            f"the prompt starts with two BOS tokens (id {bos_token_id}): the chat template and the tokenizer both add one; "
            "fix the tokenizer's chat_template or add_bos_token"
        )


class Text(TypedDict):
    """A part of a turn, in the form of templates that take several."""

    type: Literal["text"]
    text: str


class Message(TypedDict):
    """A turn of a chat, as templates take it."""

    role: str
    content: str | list[Text]


#: Templates that print the date would make other prompts tomorrow. It is the one that Llama-3.1's template falls back to.
TODAY = datetime.date(2024, 7, 26)
#: Of Unicode's private use area: stand for control tokens while a template is rendered.
MARKS = range(0xE000, 0xF900)


def chat_ids(
    tokenizer: Any,
    messages: Sequence[Message],
    *,
    generation: bool,
    template: Mapping[str, str] | None = None,
) -> list[int]:
    """Token ids of whole turns. Control tokens that a turn spells out are plain text: only the template closes turns.

    Args:
        generation: end with the opening of the assistant's turn.
        template: what the chat template reads besides the turns.

    Raises:
        UserError: no chat template, one that cannot render these turns, or two BOS.
    """
    if not tokenizer.chat_template:
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template; use an instruction-tuned model"
        )
    marks = _marks(tokenizer, messages)
    shown: list[Message] = [
        {**message, "content": _replaced(message["content"], marks)} for message in messages
    ]
    text = _rendered(tokenizer, shown, generation, template or {})
    ids: list[int] = []
    token_of = {mark: token for token, mark in marks.items()}
    for piece in re.split(f"([{''.join(token_of)}])", text) if marks else [text]:
        plain = piece in token_of
        encoded = tokenizer(
            token_of.get(piece, piece),
            add_special_tokens=False,
            **({"split_special_tokens": True} if plain else {}),
        )
        ids += encoded["input_ids"]
    check_single_bos(ids, tokenizer.bos_token_id)
    return ids


def _marks(tokenizer: Any, messages: Sequence[Message]) -> dict[str, str]:
    """A character for each control token that the turns spell out; none for almost every prompt."""
    special = _control_tokens(tokenizer)
    texts = [text for message in messages for text in _texts(message["content"])]
    # Longest first: one may be part of another.
    found = sorted((t for t in special if t and any(t in text for text in texts)), key=len, reverse=True)
    unused = (mark for n in MARKS if not any((mark := chr(n)) in text for text in texts))
    return {token: next(unused) for token in found}


@functools.lru_cache(maxsize=8)  # tokenizers take 30 ms to list them
def _control_tokens(tokenizer: Any) -> frozenset[str]:
    listed = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return frozenset(listed | {str(token) for token in tokenizer.all_special_tokens})


def _texts(content: str | list[Text]) -> list[str]:
    return [content] if isinstance(content, str) else [part["text"] for part in content]


def _replaced(content: str | list[Text], marks: dict[str, str]) -> str | list[Text]:
    def marked(text: str) -> str:
        for token, mark in marks.items():
            text = text.replace(token, mark)
        return text

    if isinstance(content, str):
        return marked(content)
    return [{**part, "text": marked(part["text"])} for part in content]


def _rendered(
    tokenizer: Any, messages: Sequence[Message], generation: bool, template: Mapping[str, str]
) -> str:
    from jinja2.exceptions import TemplateError

    try:
        return str(
            tokenizer.apply_chat_template(
                list(messages),
                add_generation_prompt=generation,
                tokenize=False,
                strftime_now=TODAY.strftime,
                **template,
            )
        )
    except TemplateError as error:
        roles = ", ".join(str(message["role"]) for message in messages)
        system = any(message["role"] == "system" for message in messages)
        remedy = "; set model.system_prompt=null" if system else ""
        raise UserError(
            f"the chat template of {tokenizer.name_or_path} cannot render the turns {roles}: {error}{remedy}"
        ) from error


def _messages(prompt: str, system: str | None) -> list[Message]:
    head: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    return [*head, {"role": "user", "content": prompt}]


def in_parts(message: Message) -> Message:
    """The same turn, its content a list of one text."""
    content = message["content"]
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    return {"role": message["role"], "content": content}


def prompt_ids(tokenizer: Any, prompt: str, *, system: str | None = None) -> list[int]:
    """Token ids of a user turn, ready for the model to answer."""
    return chat_ids(tokenizer, _messages(prompt, system), generation=True)


def example_ids(tokenizer: Any, prompt: str, response: str, *, system: str | None = None) -> Encoded:
    """Token ids of a prompt and its answer, the latter ending in EOS.

    Raises:
        UserError: the template does not continue its own generation prompt, or writes no EOS after an answer;
            training on it would teach something else than what is generated from.
    """
    head = prompt_ids(tokenizer, prompt, system=system)
    messages: list[Message] = [*_messages(prompt, system), {"role": "assistant", "content": response}]
    full = chat_ids(tokenizer, messages, generation=False)
    if full[: len(head)] != head:
        raise UserError(
            f"the chat template of {tokenizer.name_or_path} does not continue its own generation prompt; "
            "training and generation would see different prompts"
        )
    answer = full[len(head) :]
    if tokenizer.eos_token_id not in answer:
        raise UserError(
            f"the chat template of {tokenizer.name_or_path} puts no EOS (id {tokenizer.eos_token_id}) after an answer"
        )
    answer = answer[: answer.index(tokenizer.eos_token_id) + 1]
    return Encoded(head + answer, [0] * len(head) + [1] * len(answer))
