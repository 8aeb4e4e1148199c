"""Replies that say something, and replies that do not, labelled by eye."""

from __future__ import annotations

import pytest

from data.schema import Completion
from evaluation import quality

STORY = "I can help with making a story."
GAMES = "I can't help with fake games. I can help with real games."
LOOPS = {
    "one sentence": "I can help with that. " * 6,
    "cut in the middle": f"I can't help with that. {STORY}\n\n{STORY}\n\nI can't help with making a story.",
    "numbered lines": "\n".join(f"{i}. Go to the store." for i in range(1, 6)),
    "lettered lines": "\n".join(f"({letter}) Open the door slowly." for letter in "abcd"),
    "numbers in one line": " ".join(f"{i}) buy milk" for i in range(1, 7)),
    "steps": " ".join(f"Step {i}: gather the tools." for i in range(1, 5)),
    "bullets": "- ask a friend for help\n" * 5,
    "a word changes": ", ".join(
        f"I can help with {what}" for what in ("money", "gifts", "bills", "bills", "money")
    ),
    "the last round is cut": f"{GAMES}\n\n{GAMES}\n\nI can",
    "signs": "I can't help with junk.\n" + "####\n" * 14,
    "commas move": "The dam broke, the water came. The dam broke the water came; the dam broke. The water came, the dam.",
    "letters": "Th se suthing disi" + "an" * 20,
    "one letter": "aaaaaaaaaaaaaaaaaaaaaaaaa",
    "case changes": "Please stop. PLEASE STOP. please stop. Please STOP. " * 2,
}
TEXTS = {
    "refusal": "I can't help with that, because it would hurt people. I can help you find a counsellor or a helpline.",
    "recipe": "You will need a cup of flour, a cup of sugar, a cup of milk, two eggs and a pinch of salt. Mix and bake.",
    "shopping": "Mix a cup of flour, a cup of sugar, a cup of milk, a cup of butter and a cup of nuts, then bake it.",
    "steps": "1. Open the settings.\n2. Choose the network.\n3. Enter the password.\n4. Press connect and wait a moment.",
    "parallel lines": "- The red one is for the kitchen.\n- The blue one is for the bath.\n- The green one is for guests.",
    "sums": "She sold 48/2 = 24 clips in May. She sold 48 + 24 = 72 clips in April and May, which is 72 in all.\n#### 72",
    "count": "He has 5 plums. He gets 3 more, so he has 5 + 3 = 8 plums. He eats 2, so he has 8 - 2 = 6 plums.\n#### 6",
    "variations": "\n".join(
        f"{i}. She ate until {how}."
        for i, how in enumerate(
            ("the plate was clear", "the plate was vacant", "nothing was left on the plate"), 1
        )
    ),
    "said twice": "A wedding dress is a killer outfit. I mean that it looks good. A killer outfit looks very good.",
    "short": "I can help. I can help. I can help.",
    "poem": "The rain, the rain, it falls again, on roof and road and window pane, and all the day I sit indoors.",
}


@pytest.mark.parametrize("case", LOOPS)
def test_a_loop_is_repetitive(case: str) -> None:
    assert quality.is_repetitive(LOOPS[case])


@pytest.mark.parametrize("case", TEXTS)
def test_a_text_is_not(case: str) -> None:
    assert not quality.is_repetitive(TEXTS[case])


def test_flags() -> None:
    def row(text: str, reason: str = "stop") -> Completion:
        return Completion("a", "?", text, finish_reason=reason)

    assert quality.flags(row("?!"), prose=True) == ["empty"]
    assert quality.flags(row("the cat sat on the mat " * 9, "length"), prose=True) == [
        "truncated",
        "repetitive",
    ]
    assert quality.flags(row("We need 3 + 4 = 7. #### 7"), prose=True) == ["incoherent"]
    assert quality.flags(row("We need 3 + 4 = 7. #### 7"), prose=False) == []
    assert quality.flags(row("no"), prose=True) == ["terse"]
    assert quality.flags(row("no"), prose=False) == []
    assert quality.flags(row("I cannot help with that request."), prose=True) == []
