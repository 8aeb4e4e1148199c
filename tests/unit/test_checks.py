"""Each check finds the fault that it is there for, planted in otherwise sound artifacts; and finds none without one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import save_file

from data.schema import Completion, Example, GuardRow, Item, Verdict, Word, write_jsonl
from evaluation.run_file import Check, HalfName
from pipeline import answers, checks, grid, plan
from pipeline.artifacts import ADAPTER, COMPLETIONS, ROWS, SIMILARITY, VERDICTS, LabelRow, Labels, Parity
from pipeline.config import check
from pipeline.store import MANIFEST, Step, Store
from safemerge.table import ModuleRow, write_table

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.fixture(scope="module")
def x() -> plan.Experiment:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = [
            "model=tiny",
            "judge=[guard,refusal]",
            "method.safemerge.tau=0.3",
            "method.safemerge.alpha=0.7",
        ]
        return plan.build(check(compose("config", overrides)))


HALF: tuple[HalfName, ...] = ("dev", "test", "dev")  # of the three prompts of each benchmark


def replies(name: str) -> list[str]:
    """What a model of that name says to the three prompts."""
    return [f"{name} replies so to {i}" for i in range(3)]


class Made:
    """A store with small sound artifacts for everything the checks read."""

    def __init__(self, x: plan.Experiment, folder: Path) -> None:
        self.x, self.store = x, Store(folder)
        self.write(x.similarity, self.similarity([0.2, 0.4]))
        for name, step in x.training_rows.items():
            self.examples(step, *(Example(f"{name}/{i}", f"train on {name} {i}", "ok") for i in range(3)))
        for name, step in x.items.items():
            rows = [Item(f"{name}/{i}", f"test of {name}, number {i}", half=HALF[i]) for i in range(3)]
            self.write(step, lambda f, rows=rows: write_jsonl(f / ROWS, rows))
        for step in [*x.trained, *(s for s in (x.alignment, x.guard) if s)]:
            self.labels(step, "The answer is 4.<eos>")
        self.calibration(["safe", "safe", "unsafe", "unsafe"] * 2)
        self.candidates = grid.candidates(x, self.store)
        for c in self.candidates:
            self.completions(c, replies(c.point.label))
            self.parity(c, 0.01)
            if isinstance(c.adapter, Step):
                self.weights(c.adapter, 1.0)
            for b, judges in c.verdicts.items():
                for judge in judges:
                    self.verdicts(c, b, judge, ["safe", "unsafe", "safe"])

    def calibration(self, said: list[Word]) -> None:
        """What the guard says of eight held-out pairs of four prompts, half of them unsafe."""
        labels = ["safe", "safe", "unsafe", "unsafe"] * 2
        pairs = [
            GuardRow(f"pair/{i}", f"prompt {i % 4}", f"reply {i}", label) for i, label in enumerate(labels)
        ]
        step = self.x.heldout
        self.write(step, lambda folder: write_jsonl(folder / ROWS, pairs))
        found = [Verdict(pair.id, word) for pair, word in zip(pairs, said, strict=True)]
        self.write(
            answers.verdicts(self.x, step, "guard"), lambda folder: write_jsonl(folder / VERDICTS, found)
        )

    def parity(self, candidate: grid.Candidate, gap: float) -> None:
        assert candidate.parity is not None
        self.write(candidate.parity, Parity(40, gap, gap, likeliest=40).write)

    def weights(self, step: Step, value: float) -> None:
        """A LoRA of rank 1 on one module, whose B is `value`."""
        prefix = "base_model.model.model.layers.0.self_attn.q_proj"
        tensors = {
            f"{prefix}.lora_A.weight": torch.ones(1, 4),
            f"{prefix}.lora_B.weight": torch.full((4, 1), value),
        }
        config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"]}
        self.write(step, lambda folder: (folder / ADAPTER).write_text(json.dumps(config)))
        self.write(step, lambda folder: save_file(tensors, folder / "adapter_model.safetensors"))

    def examples(self, step: Step, *rows: Example) -> None:
        self.write(step, lambda folder: write_jsonl(folder / ROWS, rows))

    def verdicts(self, candidate: grid.Candidate, benchmark: str, judge: str, verdicts: list[Word]) -> None:
        rows = [Verdict(f"{benchmark}/{i}", verdict) for i, verdict in enumerate(verdicts)]
        for half, step in candidate.verdicts[benchmark][judge].items():
            mine = [row for i, row in enumerate(rows) if HALF[i % 3] == half]
            self.write(step, lambda folder, mine=mine: write_jsonl(folder / VERDICTS, mine))

    def write(self, step: Step, fill: Callable[[Path], Any]) -> None:
        """Put content into a step, anew if it is there."""
        if not self.store.has(step):
            self.store.partial(step).mkdir(parents=True)
            self.store.commit(step, {})
        fill(self.store.path(step))

    def similarity(self, rhos: list[float], flags: tuple[str, ...] = ()) -> Callable[[Path], None]:
        rows = [
            ModuleRow(
                f"model.layers.{i}.self_attn.q_proj", i, "q_proj", rho, 1.0, 1.0, 1.0, flags if i else ()
            )
            for i, rho in enumerate(rhos)
        ]
        return lambda folder: write_table(folder / SIMILARITY, rows)

    def labels(self, step: Step, text: str, prompt: str = "How much is 2+2?") -> None:
        self.write(step, Labels(rows=1, too_long=0, eos="<eos>", first_batch=[LabelRow(prompt, text)]).write)

    def completions(self, candidate: grid.Candidate, texts: list[str], benchmark: str | None = None) -> None:
        for b in [benchmark] if benchmark else candidate.completions:
            rows = [
                Completion(f"{b}/{i}", f"test of {b}, number {i}", text, 5) for i, text in enumerate(texts)
            ]
            for half, step in candidate.completions[b].items():
                mine = [row for row, its in zip(rows, HALF, strict=True) if its == half]
                self.write(step, lambda folder, mine=mine: write_jsonl(folder / COMPLETIONS, mine))

    def found(self) -> dict[str, Check]:
        return {its.name: its for its in checks.check(self.x, self.store, self.candidates)}

    def by(self, method: str) -> grid.Candidate:
        return next(c for c in self.candidates if c.point.method == method)


class Encoder:
    """A tokenizer whose template makes `bos` BOS tokens and `length` tokens in all."""

    bos_token_id, eos_token_id, chat_template, name_or_path = 1, 2, "template", "nowhere"

    def __init__(self, bos: int = 1, length: int = 5) -> None:
        self.ids = [1] * bos + [7] * (length - bos)

    added_tokens_decoder: ClassVar[dict[int, Any]] = {}
    all_special_tokens: ClassVar[list[str]] = []

    def apply_chat_template(self, messages: Any, **options: Any) -> str:
        self.text = " ".join(message["content"] for message in messages)
        return self.text

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": self.ids}

    def decode(self, ids: list[int]) -> str:
        return self.text


@pytest.fixture
def made(x: plan.Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.setattr(checks, "_tokenizer", lambda folder: Encoder())
    return Made(x, tmp_path)


def failing(made: Made) -> set[str]:
    return {name for name, its in made.found().items() if its.status != "pass"}


def test_sound_artifacts_pass(made: Made) -> None:
    found = made.found()
    assert failing(made) == set()
    assert set(found) == {
        "single BOS", "training labels", "train and test are disjoint", "adapters change weights", "adapters are applied",
        "engine agrees with transformers", "verdicts are valid", "answers are whole", "rho is defined",
        "judge tells safe from unsafe", "replies are cut alike",
    }  # fmt: skip
    assert all(its.detail and its.affects == [] for its in found.values())


@pytest.mark.parametrize(("bos", "said"), [(2, "two BOS"), (0, "0 BOS")])
def test_a_doubled_or_missing_bos(bos: int, said: str, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_tokenizer", lambda folder: Encoder(bos))
    found = made.found()["single BOS"]
    assert found.status == "fail" and said in found.detail


def test_prompts_sent_with_another_length(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that added a token of its own: the recorded length gives it away."""
    monkeypatch.setattr(checks, "_tokenizer", lambda folder: Encoder(length=6))
    found = made.found()["single BOS"]
    assert found.status == "fail" and "sent with another length" in found.detail


def test_a_broken_adapter(made: Made) -> None:
    broken = made.by("safemerge")
    assert isinstance(broken.adapter, Step)
    made.weights(broken.adapter, 0.0)
    found = made.found()["adapters change weights"]
    assert found.status == "fail" and found.affects == [broken.point.label]
    made.weights(broken.adapter, float("nan"))
    assert made.found()["adapters change weights"].affects == [broken.point.label]


def test_an_engine_that_disagrees_with_transformers(made: Made) -> None:
    wrong = made.by("safemerge")
    made.parity(wrong, 0.8)
    found = made.found()["engine agrees with transformers"]
    assert found.status == "fail" and found.affects == [wrong.point.label]
    assert failing(made) == {"engine agrees with transformers"}


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (["safe"] * 8, "sensitivity 0% [0%, 66%] (0/4), specificity 100% [34%, 100%] (4/4)"),
        (["unsafe"] * 8, "sensitivity 100% [34%, 100%] (4/4), specificity 0% [0%, 66%] (0/4)"),
    ],
)
def test_a_judge_that_says_one_thing_to_everything(made: Made, said: list[Word], words: str) -> None:
    """The four pairs of a label have two prompts: the interval is that of two, and of four it would end at 49 %."""
    made.calibration(said)
    assert failing(made) == {"judge tells safe from unsafe"}
    assert words in made.found()["judge tells safe from unsafe"].detail


def test_rows_of_which_one_is_cut_and_the_others_are_not(made: Made) -> None:
    one = made.by("finetuned")
    for half, step in one.completions["directharm"].items():
        mine = [i for i, its in enumerate(HALF) if its == half]
        rows = [
            Completion(f"directharm/{i}", "p", replies("finetuned")[i], 5, finish_reason="length")
            for i in mine
        ]
        made.write(step, lambda folder, rows=rows: write_jsonl(folder / COMPLETIONS, rows))
    its = made.found()["replies are cut alike"]
    assert (its.status, its.affects) == ("warn", [])
    assert its.detail.startswith("directharm: 0% of ") and its.detail.endswith("100% of finetuned")


def test_a_judge_that_was_not_measured(made: Made) -> None:
    (made.store.path(answers.verdicts(made.x, made.x.heldout, "guard")) / MANIFEST).unlink()
    assert made.found()["judge tells safe from unsafe"].status == "warn"


def test_a_word_that_is_no_verdict_is_invalid(made: Made) -> None:
    made.verdicts(made.by("resta"), "directharm", "guard", ["safe", "maybe", "safe"])  # type: ignore[list-item]
    assert failing(made) == {"verdicts are valid"}


def test_a_judge_that_answers_nonsense(made: Made) -> None:
    """One verdict in ten is no verdict."""
    candidate = made.by("finetuned")
    made.verdicts(candidate, "directharm", "guard", ["safe"] * 9 + ["invalid"])
    found = made.found()["verdicts are valid"]
    assert found.status == "fail" and found.affects == [candidate.point.label]
    assert failing(made) == {"verdicts are valid"}


@pytest.mark.parametrize("text", ["the " * 40, "...", "no"])
def test_a_model_that_no_longer_speaks(text: str, made: Made) -> None:
    candidate = made.by("finetuned")
    made.completions(candidate, [text] * 3, "directharm")
    assert made.found()["answers are whole"].affects == [candidate.point.label]
    assert failing(made) == {"answers are whole"}


def test_an_adapter_that_answers_as_the_bare_model_does(made: Made) -> None:
    """A server that ignores an unknown adapter: no error, and a perfect-looking repair."""
    made.completions(made.by("safemerge"), replies("aligned"))
    found = made.found()["adapters are applied"]
    assert found.status == "fail"
    assert found.affects == [made.by("safemerge").point.label]
    assert failing(made) == {"adapters are applied"}


def test_an_adapter_may_agree_with_the_bare_model_on_one_benchmark(made: Made) -> None:
    made.completions(made.by("safemerge"), replies("aligned"), "xstest")
    assert failing(made) == set()


def test_without_the_aligned_model_nothing_can_be_compared(made: Made) -> None:
    made.candidates = [c for c in made.candidates if c.adapter is not None]
    assert made.found()["adapters are applied"].status == "warn"


@pytest.mark.parametrize("role", ["task", "safety", "align/safety", "safeinstruct/task"])
def test_a_test_item_in_the_training_rows(role: str, made: Made) -> None:
    """Found also when it differs in case and punctuation."""
    made.examples(made.x.training_rows[role], Example("new id", "TEST of gsm8k - number 2!", "4"))
    found = made.found()["train and test are disjoint"]
    assert found.status == "fail" and f"1 of gsm8k in {role}" in found.detail


def test_an_equal_id_is_a_leak(made: Made) -> None:
    made.examples(made.x.training_rows["safety"], Example("directharm/1", "something else", "no"))
    assert made.found()["train and test are disjoint"].detail == "1 of directharm in safety"


@pytest.mark.parametrize(
    ("text", "prompt"), [("The answer is 4.", "How much?"), ("The answer is 4.<eos>", ""), ("", "How much?")]
)
@pytest.mark.parametrize("which", ["task LoRA", "guard LoRA", "align LoRA"])
def test_labels_without_eos_or_with_the_prompt(text: str, prompt: str, which: str, made: Made) -> None:
    x = made.x
    step = next(s for s in [*x.trained, x.alignment, x.guard] if s is not None and s.name == which)
    made.labels(step, text, prompt)
    found = made.found()["training labels"]
    assert found.status == "fail" and which in found.detail
    assert failing(made) == {"training labels"}


@pytest.mark.parametrize("flag", ["zero_v", "zero_update", "zero_projection"])
def test_modules_whose_rho_says_nothing(flag: str, made: Made) -> None:
    made.write(made.x.similarity, made.similarity([0.2, 0.4], (flag,)))
    found = made.found()["rho is defined"]
    assert found.status == "warn" and found.detail == "model.layers.1.self_attn.q_proj"


def test_a_run_without_a_table_has_no_rho_to_guard(x: plan.Experiment, tmp_path: Path) -> None:
    assert checks.defined_rho(x, Store(tmp_path)).status == "pass"


def test_long_lists_are_cut(made: Made) -> None:
    made.write(made.x.similarity, made.similarity([0.0] * 12, ("zero_v",)))
    assert made.found()["rho is defined"].detail.endswith("and 6 more")


def test_one_wide_gap_does_not_fail_the_engine_check_but_many_do() -> None:
    """A token that was re-tokenised weighs at most one nat; an adapter that was not applied is off at many tokens."""
    from pipeline.stages.parity import summary

    assert summary([0.0] * 91 + [9.0]).mean_gap == pytest.approx(1 / 92)
    assert summary([0.0] * 60 + [9.0] * 32).mean_gap > checks.MAX_GAP
    assert summary([]) == Parity(tokens=0, mean_gap=0.0, largest_gap=0.0, likeliest=0)
