"""The guard miniatures, trained for some steps to answer in their format, so that verdicts parse: they judge nothing."""

from __future__ import annotations

from typing import Any

from evaluation.guard_format import GuardFormat

STEPS, BATCH, WORDS = 40, 4, 16


def trained(model: Any, tokenizer: Any, guard: GuardFormat) -> Any:
    """The model, after the bundled labelled pairs: the guard's word for safe or unsafe, and its stop token.

    Llama-Guard opens with two newlines and names the hazard; ShieldGemma is asked about one of its policies at a time.

    It reads what the judge stage lets a guard read. Only the layers learn: embeddings and head are nearly all the weights.
    """
    import torch

    from data.loading import guard_rows
    from evaluation.guard_format import LlamaGuard, guard_answer
    from pipeline.stages.judge import guard_ids

    rows = guard_rows("train")
    rows = [
        row for pair in zip(*(_of(rows, label) for label in ("safe", "unsafe")), strict=False) for row in pair
    ]
    learning = [
        weight for name, weight in model.named_parameters() if ".layers." in name or "model.norm" in name
    ]
    optimiser = torch.optim.AdamW(learning, lr=2e-3)
    for weight in set(model.parameters()) - set(learning):
        weight.requires_grad_(False)
    for step in range(STEPS):
        examples = []
        for row in rows[step * BATCH % len(rows) :][:BATCH]:
            llama = isinstance(guard, LlamaGuard)
            answer = f"\n\n{guard_answer(row.label, row.category)}" if llama else guard.words[row.label]
            questions = guard_ids(tokenizer, guard, None, _short(row.prompt), _short(row.response))
            examples.append(
                (
                    questions[step % len(questions)],
                    [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id],
                )
            )
        width = max(len(asked) + len(answer) for asked, answer in examples)
        longest = max(len(answer) for _, answer in examples)
        ids = torch.zeros(len(examples), width, dtype=torch.long)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for n, (asked, answer) in enumerate(
            examples
        ):  # padded on the left, so that all answers are at the end
            ids[n, width - len(asked + answer) :] = torch.tensor(asked + answer)
            mask[n, width - len(asked + answer) :] = 1
            labels[n, width - len(answer) :] = torch.tensor(answer)
        out = model(input_ids=ids, attention_mask=mask, logits_to_keep=longest + 1)
        loss = torch.nn.functional.cross_entropy(
            out.logits[:, :-1].flatten(0, 1), labels[:, -longest:].flatten(), ignore_index=-100
        )
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return model


def _of(rows: list[Any], label: str) -> list[Any]:
    return [row for row in rows if row.label == label]


def _short(text: str) -> str:
    return " ".join(text.split()[:WORDS])
