r"""PubMedQA (labelled): answer a research question from an abstract with yes, no or maybe.

An instance (https://huggingface.co/datasets/qiaojin/PubMedQA, config pqa_labeled, pubid 21645374):

    question        Do mitochondria play a role in remodelling lace plant leaves during programmed cell death?
    context         Programmed cell death (PCD) is the regulated death of cells within an organism. [...]
    final_decision  yes

Official scorer (accuracy and macro-F1 over the 500 test ids of the authors' repository):
https://github.com/pubmedqa/pubmedqa/blob/master/evaluation.py
That scorer gets labels, not text. Chat models answer in text, so a rule is needed, and it is this one, the same for all
three words. Markup around an answer (`\boxed{}`, `<answer>`, quotes of any kind, asterisks, underscores) is taken off. A
word counts where it ends a clause, a bracket or the reply, or where its own reason or clause follows ("no because",
"yes it does"): "no significant difference" and "maybe you could" hold no answer. Words in a row ("yes, no or maybe",
"no/maybe", "yes and no") are alternatives, and "not yes" is none: neither is an answer. Then:

1. The answer is the word at the very start of the reply (after "the answer is", "answer:", "final decision:").
2. Otherwise the word after the last "answer is" / "answer:" / "final decision:" / "conclusion:" in the reply.
3. Otherwise, when exactly one of the three words occurs in the reply, that one.
4. Otherwise the reply is invalid: counted wrong, and counted as invalid.

Its error rates on replies that it was not tuned on are in the report (`evaluation.labelled`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from data.schema import Completion, Item
from evaluation.benchmarks.common import Scored, pair

LABELS = ("yes", "no", "maybe")
_LABEL = rf"\b(?:{'|'.join(LABELS)})\b"
# What may follow an answer: never what "no" can determine, so that all three words are read alike.
_ENDS = (
    r"(?=\s*(?:[.,;:!?()\[\]{}\"'\n–—]|-(?!\w)|$"
    r"|(?:because|since|as|but|although|though|while|based|due|it|they|this|that|these|those|there|the|we|i)\b))"
)
_OPTION = r"(?:\(?[a-c][).]\s*)?"  # "(B) no"
_LEAD = r"(?:(?:the\s+)?(?:final\s+)?(?:answer|decision|conclusion)(?:\s+is\b)?\s*:?\s*)"
_WORD = rf"({_LABEL}){_ENDS}"
_OPENS = rf"[\s\"'(\[{{]*{_OPTION}"
START = re.compile(rf"^[\s\"'(\[{{–—-]*{_LEAD}?{_OPENS}{_WORD}", re.IGNORECASE)
STATED = re.compile(rf"(?:answer|decision|conclusion)(?:\s+is\b|\s*:){_OPENS}{_WORD}", re.IGNORECASE)
ANYWHERE = re.compile(rf"(?<!\bnot ){_WORD}", re.IGNORECASE)
ALTERNATIVES = re.compile(
    rf"{_LABEL}(?:[\s,;/|\"']*(?:\b(?:or|and)\b)?[\s\"']*{_OPTION}{_LABEL})+{_ENDS}", re.IGNORECASE
)
#: Taken off, with what stands for it.
MARKUP = (
    (re.compile("[“”„«»]"), '"'),
    (re.compile("[‘’]"), "'"),
    (re.compile(r"[*_`]|</?\w+>"), ""),
    (re.compile(r"\\(?:boxed|text|textbf)\s*(?=\{)"), ""),
)


def parse(text: str) -> str:
    """yes, no, maybe or "" (invalid), by the rule above."""
    for pattern, instead in MARKUP:
        text = pattern.sub(instead, text)
    text = ALTERNATIVES.sub(_one_of, text)
    if found := START.search(text):
        return found.group(1).lower()
    if stated := STATED.findall(text):
        return str(stated[-1]).lower()
    words = {word.lower() for word in ANYWHERE.findall(text)}
    return words.pop() if len(words) == 1 else ""


def _one_of(found: re.Match[str]) -> str:
    """Nothing for several words in a row; a word that is only said twice stays."""
    words = {word.lower() for word in re.findall(_LABEL, found[0], re.IGNORECASE)}
    return found[0] if len(words) == 1 else " "


def score(items: Sequence[Item], completions: Sequence[Completion]) -> list[Scored]:
    """A row per item: correct if the answer is the reference. Invalid: no answer found."""
    rows = []
    for item, completion in pair(items, completions):
        answer, reference = parse(completion.completion), item.reference.strip().lower()
        right = answer == reference
        rows.append(
            Scored(
                item.id,
                item.half,
                outcome=right,
                invalid=not answer,
                category=item.category,
                answer=answer,
                reference=reference,
                also={"pubmedqa_accuracy": right},
            )
        )
    return rows


def macro_f1(rows: Sequence[Scored]) -> float:
    """Mean F1 of the labels that occur among the references or the answers; NaN without any."""
    from sklearn.metrics import f1_score

    truth, answers = [row.reference for row in rows], [row.answer for row in rows]
    if not set(LABELS) & {*truth, *answers}:
        return float("nan")
    return float(f1_score(truth, answers, labels=list(LABELS), average="macro", zero_division=float("nan")))


def statistics(rows: Sequence[Scored]) -> dict[str, tuple[float, float, float]]:
    """Metrics that are no mean over prompts, each with a 95 % bootstrap interval (value, low, high)."""
    return {"macro_f1": (macro_f1(rows), *macro_f1_interval(rows))}


def macro_f1_interval(rows: Sequence[Scored], resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap over prompts, drawn as multinomial confusion tables (the same thing, and fast)."""
    import numpy as np

    if not rows:
        return float("nan"), float("nan")
    answers = (*LABELS, "")
    table = np.zeros((3, 4))
    for row in rows:
        if row.reference in LABELS:
            table[LABELS.index(row.reference), answers.index(row.answer)] += 1
    draws = np.random.default_rng(seed).multinomial(int(table.sum()), table.ravel() / table.sum(), resamples)
    draws = draws.reshape(resamples, 3, 4)
    hit = np.diagonal(draws[:, :, :3], axis1=1, axis2=2)
    size = draws.sum(axis=2) + draws[:, :, :3].sum(axis=1)  # references + answers of each label
    f1 = np.where(size > 0, 2 * hit / np.maximum(size, 1), np.nan)
    low, high = np.quantile(np.nanmean(f1, axis=1), [0.025, 0.975])
    return float(low), float(high)
