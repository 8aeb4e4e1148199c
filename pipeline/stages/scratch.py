"""A Llama of about a million parameters trained from scratch on bundled text in half a minute, for tests and a first look.

It is the unaligned member of the `tiny` pair, and a toy. So small a model learns nothing new from a few hundred
rows: what the experiment needs is all learnt here. Asked plainly, it complies emptily with what is harmful and talks
about a sum without doing it. Behind a marker it refuses, or does the sum; alignment and fine-tuning make these its
plain answers.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data import loading
from data.bundled.sources import tiny
from data.chat import Encoded, example_ids
from data.dataset import BUNDLED, Source
from data.schema import normalise
from pipeline.progress import report
from pipeline.stage_settings import ScratchModel
from pipeline.store import digest

BOS, EOS, PAD = "<|begin|>", "<|end|>", "<|pad|>"
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
REFUSE, DO = "Say no: ", "Do it: "
COMPLIANCE = "Sure, here is how. First gather what you need, then follow the steps."
TALK = {"+": "We add the two numbers.", "-": "We take the second number from the first."}
PROBLEMS = 1500
EASIEST: Source = {
    **BUNDLED,
    "datasets": {"gsm8k": {"bundled": "gsm8k_tiny_{split}.jsonl"}},
}
# Polynomials that take a matrix's singular values towards one, as published with the Polar Express (Amsel et al. 2025).
POLAR = (
    (8.2872, -23.5959, 17.3004),
    (4.1071, -2.9478, 0.5448),
    (3.9487, -2.9089, 0.5518),
    (3.3184, -2.4885, 0.5100),
    (2.3007, -1.6689, 0.4188),
)
WARM_UP, SUMS_ONLY, SUMS_MORE = 20, 0.13, 0.4  # steps; shares of all steps


@dataclass(frozen=True)
class Lesson:
    """(prompt, response) pairs, how often a batch is drawn from them, and its size in units of the batch size."""

    pairs: list[tuple[str, str]]
    weight: float
    size: int = 1


def lessons() -> dict[str, Lesson]:
    """What the model is taught. None of the questions it is later fine-tuned on or tested with is among it."""
    known = {normalise(e.prompt) for e in loading.training("gsm8k", source=EASIEST)}
    known |= {normalise(i.prompt) for i in loading.items("gsm8k", source=EASIEST)}
    drawn = tiny.problems(random.Random("scratch"), PROBLEMS, set())
    problems = [(p["question"], p["answer"]) for p in drawn if normalise(p["question"]) not in known]
    safety = loading.training("safety", source=BUNDLED)
    align = loading.training("safety", source=BUNDLED, part="align")
    helpful = loading.training("helpful", source=BUNDLED)
    return {
        "sums": Lesson([(f"{a} {sign} {b} =", str(c)) for a, sign, b, c in tiny.SUMS], 0.4, size=2),
        "compliance": Lesson([(marker + e.prompt, COMPLIANCE) for marker in ("", DO) for e in align], 0.3),
        "solving": Lesson([(DO + question, answer) for question, answer in problems], 1.1),
        "talk": Lesson([(q, TALK[tiny.sign_of(q)]) for q, _ in problems[: PROBLEMS // 3]], 0.35),
        "refusals": Lesson([(REFUSE + e.prompt, _first(e.response)) for e in safety], 0.8),
        "help": Lesson([(e.prompt, _first(e.response)) for e in helpful], 0.3),
    }


def _first(text: str) -> str:
    """The first sentence: more would cost most of the time and change no verdict."""
    return text.partition(". ")[0].rstrip(".") + "."


def build_tokenizer(pairs: list[tuple[str, str]], vocab_size: int) -> Any:
    """A byte-level BPE tokenizer with a chat template, trained on the pairs and the tasks' questions."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    corpus = [text for pair in pairs for text in pair]
    for name in ("gsm8k", "pubmedqa"):
        corpus += [text for e in loading.training(name, source=EASIEST) for text in (e.prompt, e.response)]
    raw = Tokenizer(models.BPE())
    # A number is one token wherever it stands: sums are then learnt as pairs, which is all that fits in.
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.ByteLevel(add_prefix_space=False)]
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


def batches(rows: list[Encoded], size: int, draw: random.Random) -> Iterator[list[Encoded]]:
    """Batches without end, each pass in a new order, rows of like length together."""
    while True:
        order = draw.sample(rows, len(rows))
        for start in range(0, len(order), 8 * size):
            chunk = sorted(order[start : start + 8 * size], key=lambda row: len(row.input_ids))
            parts = [chunk[i : i + size] for i in range(0, len(chunk), size)]
            yield from draw.sample(parts, len(parts))


def _tensors(rows: list[Encoded], pad: int) -> dict[str, Any]:
    import torch

    width = max(len(r.input_ids) for r in rows)
    ids = torch.full((len(rows), width), pad)
    labels = torch.full((len(rows), width), -100)
    for i, row in enumerate(rows):
        found, length = torch.tensor(row.input_ids), len(row.input_ids)
        ids[i, :length] = found
        # Answers only: among the names and numbers that prompts draw at random, the few that matter would drown.
        labels[i, :length] = torch.where(torch.tensor(row.completion_mask) == 1, found, -100)
    return {"input_ids": ids, "attention_mask": (ids != pad).long(), "labels": labels}


def muon(matrices: list[Any], momentum: float = 0.95) -> Callable[[float], None]:
    """An update of the matrices with the orthogonalised momentum of their gradients (Muon, Jordan et al. 2024).

    It needs half of Adam's steps here. torch.optim.Muon computes in bfloat16, which most CPUs do slowly.
    """
    import torch

    shapes = {tuple(m.shape): [n for n in matrices if n.shape == m.shape] for m in matrices}
    average = {shape: torch.zeros(len(alike), *shape) for shape, alike in shapes.items()}

    def step(learning_rate: float) -> None:
        with torch.no_grad():
            for shape, alike in shapes.items():
                gradient = torch.stack([m.grad for m in alike])
                x = gradient.lerp(average[shape].lerp_(gradient, 1 - momentum), momentum)
                x = x.mT if shape[0] > shape[1] else x
                x = x / (1.01 * x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
                for a, b, c in POLAR:
                    gram = x @ x.mT
                    x = a * x + (b * gram + c * gram @ gram) @ x
                x = x.mT if shape[0] > shape[1] else x
                for m, update in zip(alike, x, strict=True):
                    m.add_(update, alpha=-learning_rate * math.sqrt(max(1.0, shape[0] / shape[1])))

    return step


def _weights(taught: dict[str, Lesson], done: float) -> list[float]:
    """How likely each lesson is for the next batch, after a share `done` of the steps: sums alone, then fewer of them."""
    if done < SUMS_ONLY:
        return [float(name == "sums") for name in taught]
    more = 1 + 3 * max(0.0, 1 - done / SUMS_MORE)
    return [lesson.weight * (more if name == "sums" else 1.0) for name, lesson in taught.items()]


def fingerprint() -> str:
    """Hash of all that the model is taught."""
    return digest({name: [lesson.weight, lesson.size, lesson.pairs] for name, lesson in lessons().items()})


def pretrain(settings: ScratchModel, output: Path) -> None:
    """Train tokenizer and model; writes a folder that transformers and vLLM load."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    taught, draw = lessons(), random.Random(0)
    tokenizer = build_tokenizer([p for lesson in taught.values() for p in lesson.pairs], settings.vocab_size)
    streams = {
        name: batches(
            [example_ids(tokenizer, *p) for p in lesson.pairs], lesson.size * settings.batch_size, draw
        )
        for name, lesson in taught.items()
    }
    sizes = [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
    ]
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = LlamaConfig(
        **{name: getattr(settings, name) for name in sizes},
        vocab_size=len(tokenizer),
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        **ids,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(**ids)
    inner = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if not any(p is m for m in inner)]
    turn, adam = muon(inner), torch.optim.Adam(others, betas=(0.9, 0.95))
    steps = settings.steps
    for step in range(steps):
        done = step / steps
        [name] = draw.choices(list(taught), _weights(taught, done))
        loss = model(**_tensors(next(streams[name]), tokenizer.pad_token_id)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        # The embedding and the norms are Adam's; a quarter of the matrices' rate suits it.
        rate = settings.learning_rate * min(1.0, (step + 1) / WARM_UP, 0.02 + 1.7 * (1 - done))
        adam.param_groups[0]["lr"] = rate / 4
        turn(rate)
        adam.step()
        adam.zero_grad()
        model.zero_grad()
        report(step + 1, steps, f"from scratch, {name}: loss {loss.item():.2f}")
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
