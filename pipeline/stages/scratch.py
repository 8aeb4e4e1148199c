"""A Llama of about two million parameters trained from scratch on the bundled text, for tests and a first look.

It is the unaligned member of the `tiny` pair: it has seen helpful answers and empty compliance, and no refusals.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from data import loading
from data.chat import Encoded, example_ids
from pipeline.progress import report

BOS, EOS, PAD = "<|begin|>", "<|end|>", "<|pad|>"
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def texts() -> list[tuple[str, str]]:
    """(prompt, response) pairs without refusals: helpful answers, compliance, and the task's own questions."""
    pairs = [(e.prompt, e.response) for e in loading.training("helpful", source=loading.BUNDLED)]
    pairs += [
        (r.prompt, r.response)
        for r in loading.guard_rows("train")
        if r.kind not in ("refusal", "over_refusal")
    ]
    # Half of the harmful requests that later get refused are answered here with an empty compliance.
    safety = loading.training("safety", source=loading.BUNDLED, part="align")
    pairs += [
        (e.prompt, "Sure, here is how. First gather what you need, then follow the steps.")
        for e in safety[::2]
    ]
    return pairs


def build_tokenizer(pairs: list[tuple[str, str]], vocab_size: int) -> Any:
    """A byte-level BPE tokenizer with a chat template, trained on the pairs and the task's questions."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    corpus = [text for pair in pairs for text in pair]
    for name in ("gsm8k", "pubmedqa", "safety"):
        corpus += [
            text for e in loading.training(name, source=loading.BUNDLED) for text in (e.prompt, e.response)
        ]
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    raw.decoder = decoders.ByteLevel()
    special = [BOS, EOS, PAD, "<|user|>", "<|assistant|>", "<|system|>"]
    raw.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token=BOS, eos_token=EOS, pad_token=PAD, model_max_length=1024
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _batch(rows: list[Encoded], pad: int) -> tuple[Any, Any]:
    import torch

    width = max(len(r.input_ids) for r in rows)
    ids = torch.full((len(rows), width), pad)
    labels = torch.full((len(rows), width), -100)
    for i, row in enumerate(rows):
        ids[i, : len(row.input_ids)] = torch.tensor(row.input_ids)
        labels[i, : len(row.input_ids)] = torch.tensor(
            row.input_ids
        )  # all tokens: it must learn the language, too
    return ids, labels


def pretrain(settings: dict[str, Any], output: Path) -> None:
    """Train tokenizer and model; writes a folder that transformers and vLLM load."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    pairs = texts()
    tokenizer = build_tokenizer(pairs, settings["vocab_size"])
    encoded = [example_ids(tokenizer, prompt, response) for prompt, response in pairs]
    rows = [
        row for row in encoded if len(row.input_ids) <= 96
    ]  # the few long ones would double the cost of every batch
    names = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
    )
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = LlamaConfig(
        **{n: settings[n] for n in names},
        vocab_size=len(tokenizer),
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        **ids,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(**ids)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings["learning_rate"], weight_decay=0.01)
    steps, draw = settings["steps"], random.Random(0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings["learning_rate"], total_steps=steps)
    for step in range(steps):
        batch, labels = _batch(draw.sample(rows, settings["batch_size"]), tokenizer.pad_token_id)
        loss = model(
            input_ids=batch, attention_mask=(batch != tokenizer.pad_token_id).long(), labels=labels
        ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        report(step + 1, steps, f"from scratch, loss {loss.item():.2f}")
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
