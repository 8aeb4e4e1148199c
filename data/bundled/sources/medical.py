"""Fictional abstracts in the schema of PubMedQA (pqa_labeled): the question can be answered from the context.

No study, treatment effect or number in them is real. Contexts stay under 45 words.
"""

from __future__ import annotations

import random

# design -> answer -> results sentences. {x} cause or treatment, {y} outcome, {g} group, {n} people, {hi} > {lo} percent.
DESIGNS: dict[str, dict[str, object]] = {
    "trial": {
        "question": ["Does {x} improve {y} in {g}?", "Is {x} effective for {y} in {g}?"],
        "methods": ["{n} {g} were randomly assigned to {x} or usual care.",
                    "We compared {x} with usual care in a trial of {n} {g}."],
        "yes": ["After {w} weeks {y} was better with {x} ({hi}% against {lo}%, p<0.01).",
                "{Y} improved in {hi}% with {x} and in only {lo}% with usual care, a significant difference."],
        "no": ["After {w} weeks {y} was the same in both groups ({lo}% against {lo}%, p=0.9).",
               "There was no difference in {y} between the groups ({hi}% and {hi}%)."],
        "maybe": ["{Y} improved in women but not in men, and many people left the study.",
                  "{Y} was a little better with {x}, but the difference was not clear (p=0.07)."],
        "long": {"yes": "{X} improves {y} in {g}.", "no": "{X} does not improve {y} in {g}.",
                 "maybe": "{X} may improve {y} in some {g}, but larger studies are needed."},
        "x": ["daily walking", "a text reminder", "yoga", "music therapy", "a low salt diet", "group counselling",
              "breathing exercise", "vitamin D", "a sleep diary", "a phone app", "a weekly nurse visit", "light therapy",
              "the drug velorin", "a warm bath", "swimming", "green tea"],
        "y": ["sleep", "pain", "mood", "blood pressure", "balance", "appetite", "knee function", "memory", "fatigue"],
        "g": ["adults with asthma", "older adults", "patients with back pain", "people with diabetes", "new mothers",
              "patients after surgery", "teenagers with anxiety", "night workers", "stroke patients"],
    },
    "cohort": {
        "question": ["Is {x} associated with {y} in {g}?", "Does {x} raise the risk of {y} in {g}?"],
        "methods": ["We followed {n} {g} for {w} years.", "Records of {n} {g} were studied over {w} years."],
        "yes": ["{Y} was seen in {hi}% of those with {x} and in {lo}% of the others (p<0.01).",
                "The risk of {y} was twice as high with {x}, also after adjustment."],
        "no": ["{Y} was equally common with and without {x} ({lo}% in both).",
               "{X} had no effect on the risk of {y} (p=0.8)."],
        "maybe": ["{Y} was more common with {x}, but not after adjustment for age.",
                  "A link of {x} with {y} was seen in one clinic but not in the other."],
        "long": {"yes": "{X} is associated with {y} in {g}.", "no": "{X} is not associated with {y} in {g}.",
                 "maybe": "A link between {x} and {y} is possible, but the data are mixed."},
        "x": ["smoking", "poor sleep", "low income", "high salt intake", "living alone", "shift work", "obesity",
              "little exercise", "noise at home", "skipping breakfast"],
        "y": ["stroke", "heart failure", "a bad fall", "depression", "kidney disease", "readmission", "headache",
              "tooth loss"],
        "g": ["office workers", "older women", "nurses", "patients with diabetes", "rural adults", "students",
              "men over 60"],
    },
    "test": {
        "question": ["Can {x} detect {y} in {g}?", "Is {x} accurate for {y} in {g}?"],
        "methods": ["{X} was compared with the standard test in {n} {g}."],
        "yes": ["It found {hi2}% of the cases of {y} with few false alarms.",
                "It agreed with the standard test for {y} in {hi2}% of people."],
        "no": ["It missed {hi}% of the cases of {y} and gave many false alarms.",
               "It was no better than chance in finding {y}."],
        "maybe": ["It found severe {y} well but missed most mild cases.",
                  "It worked for {y} in one hospital, but results in the other were poor."],
        "long": {"yes": "{X} can detect {y} in {g}.", "no": "{X} cannot detect {y} in {g} reliably.",
                 "maybe": "{X} may help to find some cases of {y}."},
        "x": ["a saliva test", "a short questionnaire", "a finger scan", "a breath test", "pocket ultrasound",
              "a smart watch", "a voice recording", "an eye photo"],
        "y": ["anaemia", "asthma", "infection", "heart disease", "dementia", "fractures", "diabetes"],
        "g": ["children", "older adults", "pregnant women", "clinic visitors", "athletes", "hospital patients"],
    },
    "survey": {
        "question": ["Do {g} know the {y} of {x}?", "Are {g} aware of the {y} of {x}?"],
        "methods": ["We sent a survey on {x} to {n} {g}."],
        "yes": ["{hi2}% named the {y} without error.", "Nearly all of them ({hi2}%) could describe the {y}."],
        "no": ["Only {lo}% could name the {y}.", "Most of them ({hi2}%) did not know the {y}."],
        "maybe": ["About half could name the {y}, and answers differed widely between regions.",
                  "Older people knew the {y} but younger people did not."],
        "long": {"yes": "Most {g} know the {y} of {x}.", "no": "Most {g} do not know the {y} of {x}.",
                 "maybe": "Knowledge of the {y} of {x} is uneven among {g}."},
        "x": ["antibiotics", "sunlight", "energy drinks", "flu vaccines", "sleeping pills", "fasting", "hearing aids",
              "alcohol"],
        "y": ["risks", "benefits", "side effects", "correct use"],
        "g": ["parents", "students", "nurses", "pharmacists", "teachers", "farmers", "family doctors"],
    },
}  # fmt: skip
ANSWERS = ["yes"] * 10 + ["no"] * 7 + ["maybe"] * 3  # 50 / 35 / 15 percent
FIRST_ID = 90_000_001  # far above the published ids, so that bundled and real items never share one


def _fields(design: dict[str, object], rng: random.Random) -> dict[str, object]:
    chosen = {key: rng.choice(design[key]) for key in ("x", "y", "g")}  # type: ignore[call-overload]
    low = rng.randint(10, 35)
    upper = {key.upper(): text[0].upper() + text[1:] for key, text in chosen.items()}
    return {**chosen, **upper, "n": rng.randint(4, 60) * 10, "w": rng.randint(3, 12), "lo": low,
            "hi": low + rng.randint(18, 35), "hi2": rng.randint(80, 95)}  # fmt: skip


def abstract(answer: str, number: int, rng: random.Random) -> dict[str, object]:
    """One row with the given final decision; `number` becomes the pubid."""
    design = DESIGNS[rng.choices(list(DESIGNS), weights=[4, 3, 2, 2])[0]]
    fields = _fields(design, rng)

    def written(key: str) -> str:
        text = rng.choice(design[key]).format(**fields)  # type: ignore[call-overload]
        return text[0].upper() + text[1:]

    long_answer = design["long"][answer].format(**fields)  # type: ignore[index]
    return {
        "pubid": FIRST_ID + number,
        "question": written("question"),
        "context": {
            "contexts": [written("methods"), written(answer)],
            "labels": ["METHODS", "RESULTS"],
            "meshes": ["Humans"],
            "reasoning_required_pred": list(answer),
            "reasoning_free_pred": list(answer),
        },
        "long_answer": long_answer,
        "final_decision": answer,
    }


def abstracts(rng: random.Random, count: int, first: int, seen: set[str]) -> list[dict[str, object]]:
    """`count` rows with the answers in the proportions of ANSWERS, shuffled; `seen` holds used questions."""
    answers = [ANSWERS[i % len(ANSWERS)] for i in range(count)]
    rng.shuffle(answers)
    rows: list[dict[str, object]] = []
    while len(rows) < count:
        row = abstract(answers[len(rows)], first + len(rows), rng)
        key = str(row["question"]).lower()
        if key not in seen:
            seen.add(key)
            rows.append(row)
    return rows
