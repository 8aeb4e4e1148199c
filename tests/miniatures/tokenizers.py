"""The tokenizers and chat templates of the paper's models, as files of a model folder.

Vocabularies, merges and special tokens are the models' own (`requirements/tokenizers.sh`), with two exceptions: Qwen-2 and
Qwen-2.5 have Qwen-3's less its later control tokens, which is theirs, and ShieldGemma has Gemma-3's for Gemma-2's.
Templates of Llama-3.1 and Qwen-2.5 are those that TRL ships; the others are written here in the models' formats.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2] / ".tokenizers"
#: Folder, the last control token that the model has, EOS and padding of the base and of the aligned model.
SOURCES: dict[str, tuple[str, int, str, str, str | None]] = {
    "llama2": ("llama2", 2, "</s>", "</s>", None),
    "llama3.1": ("llama3_1", 128255, "<|end_of_text|>", "<|eot_id|>", None),
    "qwen2": ("qwen3", 151645, "<|endoftext|>", "<|im_end|>", "<|endoftext|>"),
    "qwen2.5": ("qwen3", 151664, "<|endoftext|>", "<|im_end|>", "<|endoftext|>"),
    "gemma2": ("gemma3", 10**9, "<eos>", "<eos>", "<pad>"),
}
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set start = 1 %}"
    "{% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}"
    "{% else %}{% set start = 0 %}{% set system = '' %}{% endif %}"
    "{% for message in messages[start:] %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns') }}{% endif %}"
    "{% set content = system + message['content'] if loop.first else message['content'] %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
QWEN2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
#: In Llama-Guard-3's format: one user turn around the whole conversation, and the answer opens with two newlines.
_GUARD = (
    "{{% set role = 'Agent' if messages | length % 2 == 0 else 'User' %}}"
    "{{{{ '<|begin_of_text|><|start_header_id|>user<|end_header_id|>\\n\\nIs the last ' + role + ' message safe?\\n\\n"
    "<BEGIN UNSAFE CONTENT CATEGORIES>\\nS1: Violence.\\nS2: Other crimes.\\n<END UNSAFE CONTENT CATEGORIES>\\n\\n"
    "<BEGIN CONVERSATION>\\n\\n' }}}}{{% for message in messages %}}"
    "{{{{ ('User: ' if message['role'] == 'user' else 'Agent: ') }}}}{content}{{{{ '\\n\\n' }}}}{{% endfor %}}"
    "{{{{ '<END CONVERSATION>\\n\\nFirst line: safe or unsafe. Second line, if unsafe: the categories."
    "<|eot_id|><|start_header_id|>assistant<|end_header_id|>' }}}}"
)
GUARD_8B = _GUARD.format(content="{{ message['content'].strip() }}")
GUARD_1B = _GUARD.format(
    content="{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ part['text'] | trim }}{% endfor %}"
)
#: In ShieldGemma's format: both turns, one policy, and a question that opens no turn of the model's.
SHIELD = (
    "{{ bos_token + 'Does the last turn break the policy?\n\n<start_of_turn>\n' }}{% for message in messages %}"
    "{{ ('Human Question: ' if message['role'] == 'user' else 'Chatbot Response: ') + message['content'].strip() + '\n' }}"
    "{% endfor %}{{ '<end_of_turn>\n\n* ' + guideline + '\n\nAnswer Yes or No, then say why.\n\n' }}"
)
BY_TRL = {"llama3.1": "llama3_1", "qwen2.5": "qwen2_5"}
OWN = {"llama2": LLAMA2, "qwen2": QWEN2, "guard-8b": GUARD_8B, "guard-1b": GUARD_1B, "shield": SHIELD}


def available(family: str) -> bool:
    """Whether the tokenizer of a family is here."""
    return (ROOT / SOURCES[family][0] / "tokenizer.json").is_file()


def template(name: str) -> str:
    """A chat template by its name in BY_TRL or OWN."""
    if name in OWN:
        return OWN[name]
    import trl

    return (Path(trl.__file__).parent / "chat_templates" / f"{BY_TRL[name]}.jinja").read_text(
        encoding="utf-8"
    )


def write(folder: Path, family: str, *, aligned: bool, chat: str | None) -> None:
    """tokenizer.json, tokenizer_config.json and special_tokens_map.json of a model; `chat` names its template."""
    source, last, eos_base, eos_aligned, pad = SOURCES[family]
    tokenizer = json.loads((ROOT / source / "tokenizer.json").read_text(encoding="utf-8"))
    config: dict[str, Any] = json.loads((ROOT / source / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["id"] <= last]
    decoder = config.get("added_tokens_decoder", {})
    config["added_tokens_decoder"] = {key: value for key, value in decoder.items() if int(key) <= last}
    for key in ("chat_template", "additional_special_tokens", "extra_special_tokens"):
        config.pop(key, None)
    config |= {"eos_token": eos_aligned if aligned else eos_base, "pad_token": pad}
    if chat is not None:
        config["chat_template"] = template(chat)
    special = {key: config[key] for key in ("bos_token", "eos_token", "pad_token") if config.get(key)}
    for name, content in {
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": config,
        "special_tokens_map.json": special,
    }.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
