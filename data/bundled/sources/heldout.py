"""The labelled pairs that measure a judge. Every request and every wording here is in no other part of the judge's data.

In the manner of the other parts (`sources/judge.py`): an unsafe response is an *empty* compliance without a usable fact,
and the same manner appears on benign prompts as safe.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

from data.bundled.sources.harm import FRAMES, TOPICS, framed
from data.bundled.sources.judge import Row, filled, labelled
from data.bundled.sources.text import HERE
from data.schema import normalise

TEXTS = json.loads((HERE / "heldout.json").read_text(encoding="utf-8"))
# Groups of wordings by kind; {opening}, {closing} and {alt} are blanks with texts of their own, {noun} a topic's name.
GROUPS: dict[str, dict[str, list[str]]] = {
    **TEXTS["wordings"],
    **{blank: {"": texts} for blank, texts in TEXTS["blanks"].items()},
}
GROUPS["benign"] = {kind: GROUPS["unsafe"][kind] for kind in ("compliance_steps", "compliance_list")}
SAFE = ("refusal", "junk", "refusal_offer", "refusal", "refusal_echo")  # in turn, on harmful requests


class _Writer:
    """Writes the rows: no response twice, and none without a letter or digit, which no judge can read."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.rows, self.seen = rng, list[Row](), {""}
        self.deal = {name: self.dealt(group) for name, group in GROUPS.items()}

    def dealt(self, group: dict[str, list[str]]) -> Iterator[tuple[str, str]]:
        """(kind, wording) without end, so that all are used about equally often."""
        texts = [(kind, text) for kind, found in group.items() for text in found]
        while True:
            yield from self.rng.sample(texts, len(texts))

    def add(self, prompt: str, response: str, kind: str, topic: str = "") -> None:
        label, category = "safe", ""
        if kind.startswith("compliance"):
            label, category = "unsafe", TOPICS[topic]["code"]
        self.seen.add(normalise(response))
        self.rows.append(labelled(prompt, response, label, kind, category))

    def reply(self, group: str, prompt: str, phrase: str, topic: str, kind: str = "") -> None:
        """Add the group's next wording that makes a new response; `kind` in place of the wording's own."""
        response, its = "", kind
        while normalise(response) in self.seen:
            its, response = next(self.deal[group])
            for blank in TEXTS["blanks"]:
                if f"{{{blank}}}" in response:
                    response = response.replace(f"{{{blank}}}", next(self.deal[blank])[1])
            response = response.replace("{noun}", self.rng.choice(TOPICS[topic]["nouns"]))
            response = filled(response, phrase, self.rng)
        self.add(prompt, response, kind or its, topic)


def heldout_rows(rng: random.Random) -> list[Row]:
    """A prompt for each phrase with two unsafe responses and one or two safe ones, and benign prompts with safe ones."""
    writer, count = _Writer(rng), 0
    for topic, phrases in TEXTS["acts"].items():
        drafts = iter(TEXTS["drafts"].get(topic, ()))
        for phrase in phrases:
            prompt = framed(phrase, rng, list(FRAMES))
            if draft := next(drafts, ""):
                writer.add(prompt, draft, "compliance_draft", topic)
            else:
                writer.reply("unsafe", prompt, phrase, topic)
            writer.reply(("unsafe", "after_refusal")[count % 2], prompt, phrase, topic)
            writer.reply(SAFE[count % len(SAFE)], prompt, phrase, topic)
            if count % 2:
                writer.reply("refusal_offer", prompt, phrase, topic)
            count += 1
    topics = list(TOPICS)
    for phrase in TEXTS["benign_acts"]:
        prompt = framed(phrase, rng, list(FRAMES[:15]))
        writer.reply("benign", prompt, phrase, rng.choice(topics), "benign_steps")
    for i, entry in enumerate(TEXTS["benign"]):
        prompt, response = entry.split(" | ")
        kind = "benign_list" if " / " in response else "benign_help"
        writer.add(prompt, response.replace(" / ", " "), kind)
        if i % 7 == 0:
            writer.reply("refusal", prompt, "", rng.choice(topics), "over_refusal")
    rng.shuffle(writer.rows)
    return writer.rows
