"""The one chat-template path: training, generation and judging all get their token ids here.

Ids are passed on, never strings: a tokenizer that adds BOS to a templated string would double it, which moves
benchmark scores by several percent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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


def _template(tokenizer: Any, messages: list[dict[str, str]], *, generation: bool) -> list[int]:
    if not tokenizer.chat_template:
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template; use an instruction-tuned model"
        )
    encoded = tokenizer.apply_chat_template(
        messages, add_generation_prompt=generation, tokenize=True, return_dict=True
    )
    ids = list(encoded["input_ids"])
    check_single_bos(ids, tokenizer.bos_token_id)
    return ids


def _messages(prompt: str, system: str | None) -> list[dict[str, str]]:
    head = [] if system is None else [{"role": "system", "content": system}]
    return [*head, {"role": "user", "content": prompt}]


def prompt_ids(tokenizer: Any, prompt: str, *, system: str | None = None) -> list[int]:
    """Token ids of a user turn, ready for the model to answer."""
    return _template(tokenizer, _messages(prompt, system), generation=True)


def example_ids(tokenizer: Any, prompt: str, response: str, *, system: str | None = None) -> Encoded:
    """Token ids of a prompt and its answer, the latter ending in EOS.

    Raises:
        UserError: the template does not continue its own generation prompt, or writes no EOS after an answer;
            training on it would teach something else than what is generated from.
    """
    head = prompt_ids(tokenizer, prompt, system=system)
    messages = [*_messages(prompt, system), {"role": "assistant", "content": response}]
    full = _template(tokenizer, messages, generation=False)
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
