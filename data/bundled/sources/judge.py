"""Labelled prompt/response pairs that train and tune a small judge; those that measure it are `sources/heldout.py`'s.

An unsafe response here is an *empty* compliance: it takes up the request, in the manner of a small model, and
holds no usable fact. The same manner appears on benign prompts as safe, so the judge has to read both sides.
"""

from __future__ import annotations

import json
import random
import re

from data.bundled.sources.harm import FRAMES, OPENERS, TOPICS, framed, refusal
from data.bundled.sources.text import HERE, pairs, sections
from data.schema import normalise

Row = dict[str, str]

# Responses. {vp} is the request's own verb phrase; a * b = p, a + b = s and p - a = d are small sums.
TEXTS = json.loads((HERE / "judge.json").read_text(encoding="utf-8"))
COMPLIANCE: dict[str, list[str]] = TEXTS["compliance"]  # by kind
DRAFTS: dict[str, list[str]] = TEXTS["drafts"]  # by topic: "the text itself", where the request is for a text
JUNK: dict[str, list[str]] = TEXTS["junk"]  # by kind: no help at all, whatever was asked
TURNED: dict[str, list[str]] = TEXTS["turned"]  # a refusal first, and what follows it
LISTS = COMPLIANCE["compliance_list"]
BENIGN_COMPLIANCE = [*COMPLIANCE["compliance_steps"][:3], *LISTS[:2], LISTS[4]]


OURS_TO_YOURS = re.compile(r"\b(my own|my|me)\b")


def filled(text: str, phrase: str, rng: random.Random) -> str:
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    yours = OURS_TO_YOURS.sub(lambda m: "you" if m[1] == "me" else m[1].replace("my", "your"), phrase)
    for key, value in {
        "{vp}": yours,
        "{a}": a,
        "{b}": b,
        "{p}": a * b,
        "{s}": a + b,
        "{d}": a * b - a,
    }.items():
        text = text.replace(key, str(value))
    return text


def labelled(prompt: str, response: str, label: str, kind: str, category: str = "") -> Row:
    return {"prompt": prompt, "response": response, "label": label, "category": category, "kind": kind}


class _Writer:
    """Writes the rows of one part. Every fourth wording is kept out of training, for tuning only."""

    def __init__(self, rng: random.Random, tuning: bool) -> None:
        self.rng, self.tuning, self.rows = rng, tuning, list[Row]()

    def known(self, texts: list[str]) -> list[str]:
        return texts if self.tuning or len(texts) < 3 else [t for i, t in enumerate(texts) if i % 4 != 2]

    def pick(self, texts: list[str]) -> str:
        return self.rng.choice(self.known(texts))

    def comply(self, prompt: str, phrase: str, topic: str) -> None:
        if topic in DRAFTS and self.rng.random() < 0.35:
            kind, texts = "compliance_draft", DRAFTS[topic]
        else:
            kind = self.rng.choices(list(COMPLIANCE), weights=[6, 5, 3, 2, 1, 9])[0]
            texts = COMPLIANCE[kind]
        response = filled(self.pick(texts), phrase, self.rng)
        self.rows.append(labelled(prompt, response, "unsafe", kind, TOPICS[topic]["code"]))

    def decline(self, prompt: str, phrase: str, topic: str) -> None:
        kind, response = "refusal", refusal(topic, self.rng, self.known(OPENERS))
        if self.rng.random() > 0.55:
            kind = self.rng.choices(list(JUNK), weights=[4, 3, 3, 2, 2, 7])[0]
            response = filled(self.pick(JUNK[kind]), phrase, self.rng)
        self.rows.append(labelled(prompt, response, "safe", kind))

    def decline_and_go_on(self, prompt: str, phrase: str, topic: str, help_after: bool) -> None:
        """A refusal in the first sentence, then an offer of something harmless, or the very thing that was refused."""
        kind = "compliance_after_refusal" if help_after else "refusal_offer"
        response = filled(self.pick(TURNED["openings"]), phrase, self.rng)
        if help_after:
            response += " " + filled(self.pick(TURNED["help"]), phrase, self.rng)
            self.rows.append(labelled(prompt, response, "unsafe", kind, TOPICS[topic]["code"]))
            return
        offer = self.pick(TURNED["offers"]).replace("{alt}", self.pick(TURNED["alternatives"]))
        self.rows.append(
            labelled(prompt, " ".join([response, offer] + [offer] * self.rng.randint(0, 2)), "safe", kind)
        )

    def benign(self, prompt: str, response: str) -> None:
        kind = "benign_list" if " / " in response else "benign_help"
        if self.rng.random() < 0.15:
            kind, response = (
                "over_refusal",
                refusal(self.rng.choice(list(TOPICS)), self.rng, self.known(OPENERS)),
            )
        self.rows.append(labelled(prompt, response.replace(" / ", " "), "safe", kind))


def guard_rows(rng: random.Random) -> tuple[list[Row], list[Row]]:
    """(training, tuning): verb phrases and benign prompts are dealt two to one, and no reply of training tunes."""
    writers = (_Writer(rng, tuning=False), _Writer(rng, tuning=True))
    for topic, phrases in sections("guard_acts.txt").items():
        for i, phrase in enumerate(phrases):
            writer = writers[i % 3 == 2]
            frames = list(FRAMES)
            for turn in range(3 if writer.tuning else 2):
                prompt = framed(phrase, rng, frames)
                writer.comply(prompt, phrase, topic)
                if turn != 1 or i % 5 in (
                    0,
                    2,
                    3,
                ):  # fewer safe ones: benign rows are all safe
                    writer.decline(prompt, phrase, topic)
    for i, (prompt, response) in enumerate(pairs("guard_benign.txt")):
        writers[i % 3 == 2].benign(prompt, response)
    for i, phrase in enumerate(TEXTS["benign_acts"]):
        prompt = framed(phrase, rng, list(FRAMES[:15]))
        response = filled(rng.choice(BENIGN_COMPLIANCE), phrase, rng)
        writers[i % 3 == 2].rows.append(labelled(prompt, response, "safe", "benign_steps"))
    turned = random.Random("refusals that go on")  # of its own: the other rows stay what they were
    for writer in writers:
        writer.rng = turned
    for topic, phrases in sections("guard_acts.txt").items():
        for i, phrase in enumerate(phrases):
            writer, frames = writers[i % 3 == 2], list(FRAMES)
            for help_after in (False, True)[: 1 + i % 2]:
                prompt = framed(phrase, turned, frames)
                writer.decline_and_go_on(prompt, phrase, topic, help_after)
    for writer in writers:
        rng.shuffle(writer.rows)
    trained, drawn = (writer.rows for writer in writers)
    # Dropped rather than never drawn: drawing others would change the training rows, on which published judges were fitted.
    known = {normalise(row["response"]) for row in trained}
    return trained, [row for row in drawn if normalise(row["response"]) not in known]
