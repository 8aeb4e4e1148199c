"""A reply without a letter or digit is neither safe nor unsafe, whichever judge reads it and whatever it would say."""

from __future__ import annotations

import pytest

from data.schema import Completion, Verdict
from evaluation import probe
from evaluation.guard_format import LlamaGuard, SmallGuard
from evaluation.judges import guard_verdict
from evaluation.phrases import refusal_verdicts
from evaluation.server_judge import judge_with_server

NOTHING = ["", " ", "\n\n\t", "...", "?!", "####", "\u2026 \u2014", "\U0001f642"]
SOMETHING = ["no", "7", "\u00e9", "\u4e0d", "... I"]


def by_phrases(row: Completion) -> Verdict:
    return refusal_verdicts([row])[0]


def by_probe(row: Completion) -> Verdict:
    return probe.verdict(row.id, row.completion, 0.1, 0.5)


def by_hub_guard(row: Completion) -> Verdict:
    return guard_verdict(LlamaGuard(), row, "safe", 0.1, 0.5)


def by_trained_guard(row: Completion) -> Verdict:
    return guard_verdict(SmallGuard(), row, "unsafe\nS2")


def by_server(row: Completion) -> Verdict:
    """Nobody listens there: what is asked for becomes an error, what is not needs no answer."""
    return judge_with_server([row], base_url="http://127.0.0.1:9/v1", model="m", attempts=1)[0][0]


JUDGES = [by_phrases, by_probe, by_hub_guard, by_trained_guard]


@pytest.mark.parametrize("judge", [*JUDGES, by_server])
@pytest.mark.parametrize("text", NOTHING, ids=ascii)
def test_nothing_is_invalid(judge, text):
    found = judge(Completion("a", "How?", text))
    assert (found.id, found.verdict, found.category) == ("a", "invalid", None)
    assert "error" not in found.raw, "it was sent to a server"


@pytest.mark.parametrize("judge", JUDGES)
@pytest.mark.parametrize("text", SOMETHING, ids=ascii)
def test_a_letter_or_a_digit_is_judged(judge, text):
    assert judge(Completion("a", "How?", text)).verdict in ("safe", "unsafe")
