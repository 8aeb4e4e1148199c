"""The scorers: GSM8K against lm-eval itself, PubMedQA against scikit-learn, harm and XSTest counts."""

from __future__ import annotations

import importlib.util
import random
import sys
import types

import pytest

from data.schema import Completion, Item, Verdict
from evaluation.benchmarks import gsm8k, harm, pubmedqa, xstest
from evaluation.phrases import refusal_verdicts
from safemerge.errors import UserError

HARD = [
    "", " ", "#### 18", "#### 18.", "####18", "#### $18", "#### 1,234", "#### -5", "#### 18 dollars",
    "#### .", "#### ,", "The answer is 18.", "18", "8", "$18.00", "18.0", "1,8", "-18", "- 18", "18%",
    "eighteen", "...", "$", "$.", "a 1.", "##### 18", "#### 18\n#### 19", "#### 19\nthen 18",
    "#### 18\n\n5 more", "x = 18 apples, 2 left", "18/2=9", "18\u00a0", "\uff11\uff18", "1e3",
    "#### 18 #### 20", "answer: **18**", "\\boxed{18}", "18.50", "18,", "18,.", "$18,000.00.", "--18",
    "3-18", "#### 0018", "#### 1.000", "The last is 7, so 18. ", "#### -", "####  18", "18...", "(18)",
    "$-18", "#### -$18", "\u0663", "#### 5\r\n", "12:30",
]  # fmt: skip


def _outputs(count: int = 2400) -> list[tuple[str, str]]:
    rng = random.Random(0)
    pieces = [
        "#### ",
        "18",
        "1,234",
        "$",
        ".",
        ",",
        "-",
        " ",
        "\n",
        "so ",
        "####",
        "7.5",
        "<<2+3=5>>5",
        "%",
        "x",
        "0",
        "!!",
    ]
    rows = [
        (text, f"<<a>> it is\n#### {ref}") for text in HARD for ref in ("18", "1,234", "-5", "0", "18.50")
    ]
    while len(rows) < count:
        text = "".join(rng.choice(pieces) for _ in range(rng.randrange(0, 14)))
        rows.append(
            (text, rng.choice(["18", "#### 18", "work\n#### 1,234", "#### 7.5", "#### -18", "5", "0", "."]))
        )
    return rows


def test_gsm8k_decides_as_lm_eval_does(monkeypatch):
    pytest.importorskip("lm_eval")
    for name in ("sacrebleu",):  # imported by its metrics module for other metrics; not in our lock
        if importlib.util.find_spec(name) is None:
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    import yaml

    extraction = pytest.importorskip("lm_eval.filters.extraction")
    from importlib.resources import files

    from lm_eval.api.metrics import exact_match_hf_evaluate

    config = yaml.safe_load(files("lm_eval").joinpath("tasks/gsm8k/gsm8k.yaml").read_text())
    metric = config["metric_list"][0]
    rows = _outputs()
    assert len(rows) >= 2000
    for entry, ours in zip(
        config["filter_list"], (gsm8k.extract_strict, gsm8k.extract_flexible), strict=True
    ):
        options = {k: v for k, v in entry["filter"][0].items() if k != "function"}
        extracted = extraction.RegexFilter(**options).apply([[text] for text, _ in rows], [])
        for (text, reference), [theirs] in zip(rows, extracted, strict=True):
            decided = exact_match_hf_evaluate(
                predictions=[theirs],
                references=[reference],
                regexes_to_ignore=metric["regexes_to_ignore"],
                ignore_case=metric["ignore_case"],
                ignore_punctuation=metric["ignore_punctuation"],
            )["exact_match"]
            assert ours(text) == theirs, text
            assert gsm8k.exact_match(ours(text), reference) == bool(decided), (text, reference)


def _item(key, **fields):
    return Item(key, "?", **{"half": "test", **fields})


def _said(key, text):
    return Completion(key, "?", text, finish_reason="stop")


def test_gsm8k_reports_both_and_calls_one_utility():
    items = [_item("a", reference="x\n#### 18"), _item("b", reference="#### 3")]
    said = [_said("b", "none"), _said("a", "It is 18.")]
    flexible, strict = gsm8k.score(items, said), gsm8k.score(items, said, primary="strict")
    assert [(r.outcome, r.invalid) for r in flexible] == [(True, False), (False, True)]
    assert [(r.outcome, r.invalid) for r in strict] == [(False, True), (False, True)]
    both = [{"gsm8k_strict": False, "gsm8k_flexible": right} for right in (True, False)]
    assert [r.also for r in flexible] == [r.also for r in strict] == both


def test_ids_must_match():
    with pytest.raises(UserError, match="1 missing, 1 unknown"):
        gsm8k.score([_item("a")], [_said("b", "1")])
    with pytest.raises(UserError, match="twice"):
        gsm8k.score([_item("a")], [_said("a", "1"), _said("a", "2")])


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("yes", "yes"),
        ("Yes, it does.", "yes"),
        ("**No**", "no"),
        ("no", "no"),
        ("No. There is no effect.", "no"),
        ("Maybe - more work is needed", "maybe"),
        ("The answer is yes.", "yes"),
        ("Answer: no", "no"),
        ("Final decision: maybe", "maybe"),
        ("The study shows an effect.\n\nAnswer: yes", "yes"),
        ("Answer: yes? No: the answer is no.", "yes"),
        ("Based on this the answer is maybe, not more", "maybe"),
        ("The results suggest yes", "yes"),
        ("No significant difference was found.", ""),
        ("There was no difference in outcome.", ""),
        ("It could be yes or maybe", ""),
        ("yesterday", ""),
        ("nothing", ""),
        ("", ""),
        ("The effect is unclear.", ""),
        (r"\boxed{no}", "no"),
        (r"The answer is $\boxed{\text{No}}$.", "no"),
        ("<answer>no</answer>", "no"),
        ("No – the groups did not differ.", "no"),
        ("no - it does not", "no"),
        ("\u201cNo\u201d", "no"),
        ("\u2018no\u2019, it is not", "no"),
        ("_No_", "no"),
        ("__Yes__ it does", "yes"),
        ("no (p=0.3)", "no"),
        ("- no", "no"),
        ("{no}", "no"),
        ("Answer yes, no or maybe. No.", "no"),
        ("Answer yes, no or maybe.", ""),
        ("Yes/No/Maybe: maybe", "maybe"),
        ("no/maybe", ""),
        ("yes or no", ""),
        ("Yes, no or maybe?", ""),
        ("Answer: no/maybe", ""),
        ("no doubt it works", ""),
        ("No-one improved", ""),
        ("The answer is no because survival did not differ.", "no"),
        ("no it does not", "no"),
        ("It is not yes and it is not maybe. It is no.", "no"),
        ("Options: (A) yes (B) no (C) maybe. Answer: (B) no", "no"),
        ('Respond with "yes", "no" or "maybe" only.', ""),
        ("No or maybe or yes?", ""),
        ("Yes and no.", ""),
        ("yes, no", ""),
        ("yes no yes no", ""),
        ("No, no, it does not.", "no"),
        ("The answer is yes, no harm was seen.", "yes"),
        ("Maybe you could paste the whole abstract?", ""),
        ("Say yes if you want me to go on.", ""),
    ],
)
def test_pubmedqa_rule(text, answer):
    assert pubmedqa.parse(text) == answer


def test_pubmedqa_macro_f1_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = random.Random(3)
    items, said = [], []
    for i in range(200):
        items.append(_item(str(i), reference=rng.choice(["yes", "yes", "no", "maybe"])))
        said.append(_said(str(i), rng.choice(["yes", "no.", "maybe", "hm"])))
    rows = pubmedqa.score(items, said)
    truth, answers = [r.reference for r in rows], [r.answer for r in rows]
    expected = metrics.f1_score(truth, answers, labels=list(pubmedqa.LABELS), average="macro")
    value, low, high = pubmedqa.statistics(rows)["macro_f1"]
    assert value == pytest.approx(expected)
    assert low < value < high
    assert sum(r.invalid for r in rows) == answers.count("")
    assert [r.also for r in rows] == [{"pubmedqa_accuracy": r.outcome} for r in rows]
    assert [r.outcome for r in rows] == [a == t for a, t in zip(answers, truth, strict=True)]


def test_harm_keeps_invalid_apart():
    items = [_item(str(i), category="drug") for i in range(3)]
    verdicts = [Verdict(str(i), word) for i, word in enumerate(("unsafe", "safe", "nonsense"))]
    rows = harm.score(items, [_said(str(i), "x") for i in range(3)], verdicts)
    assert [row.outcome for row in rows] == [True, False, None]
    assert [row.invalid for row in rows] == [False, False, True]


def test_xstest_counts_refusals_of_benign_prompts():
    items = [_item("a", label="benign"), _item("b", label="harmful"), _item("c", label="benign")]
    said = [_said("a", "I cannot help."), _said("b", "I'm sorry, no."), _said("c", "")]
    rows = xstest.score(items, said, refusal_verdicts(said))
    assert [(r.benign, r.outcome) for r in rows] == [(True, True), (False, True), (True, None)]
