"""Each check finds the fault that it is there for, planted in otherwise sound artifacts; and finds none without one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import save_file

from data import schema
from data.schema import Example, Item
from pipeline import checks, grid, plan
from pipeline.config import check
from pipeline.store import Step, Store
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


HALF = ("dev", "test", "dev")  # of the three prompts of each benchmark


class Made:
    """A store with small sound artifacts for everything the checks read."""

    def __init__(self, x: plan.Experiment, folder: Path) -> None:
        self.x, self.store = x, Store(folder)
        self.write(x.similarity, self.similarity([0.2, 0.4]))
        for name, step in x.training_rows.items():
            rows = [asdict(Example(f"{name}/{i}", f"train on {name} {i}", "ok")) for i in range(3)]
            self.write(step, lambda f, rows=rows: schema.write_jsonl(f / "rows.jsonl", rows))
        for name, step in x.items.items():
            rows = [
                asdict(Item(f"{name}/{i}", f"test of {name}, number {i}", half=HALF[i])) for i in range(3)
            ]
            self.write(step, lambda f, rows=rows: schema.write_jsonl(f / "rows.jsonl", rows))
        for step in [*x.trained, *(s for s in (x.alignment, x.guard) if s)]:
            self.labels(step, "The answer is 4.<eos>")
        self.candidates = grid.candidates(x, self.store)
        for c in self.candidates:
            self.completions(c, c.point.label)
            self.parity(c, 0.01)
            if isinstance(c.adapter, Step):
                self.weights(c.adapter, 1.0)
            for b in x.config.benchmark:
                for judge in grid.judges_of(x, b):
                    self.verdicts(c, b, judge, ["safe", "unsafe", "safe"])

    def parity(self, candidate: grid.Candidate, gap: float) -> None:
        found = json.dumps({"tokens": 40, "mean_gap": gap, "largest_gap": gap, "likeliest": 40})
        step = grid.parity(self.x, candidate)
        self.write(step, lambda folder: (folder / "parity.json").write_text(found))

    def weights(self, step: Step, value: float) -> None:
        """A LoRA of rank 1 on one module, whose B is `value`."""
        prefix = "base_model.model.model.layers.0.self_attn.q_proj"
        tensors = {
            f"{prefix}.lora_A.weight": torch.ones(1, 4),
            f"{prefix}.lora_B.weight": torch.full((4, 1), value),
        }
        config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"]}
        self.write(step, lambda folder: (folder / "adapter_config.json").write_text(json.dumps(config)))
        self.write(step, lambda folder: save_file(tensors, folder / "adapter_model.safetensors"))

    def verdicts(self, candidate: grid.Candidate, benchmark: str, judge: str, verdicts: list[str]) -> None:
        rows = [{"id": f"{benchmark}/{i}", "verdict": verdict} for i, verdict in enumerate(verdicts)]
        for replies in grid.replies(self.x, candidate, benchmark):
            mine = [row for i, row in enumerate(rows) if HALF[i % 3] == replies.settings["half"]]
            step = grid.verdicts(self.x, replies, judge)
            self.write(step, lambda folder, mine=mine: schema.write_jsonl(folder / "verdicts.jsonl", mine))

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
        return lambda folder: write_table(folder / "similarity.csv", rows)

    def labels(self, step: Step, text: str, prompt: str = "How much is 2+2?") -> None:
        found = {"rows": 1, "eos": "<eos>", "first_batch": [{"prompt": prompt, "labels": text}]}
        self.write(step, lambda folder: (folder / "labels.json").write_text(json.dumps(found)))

    def completions(self, candidate: grid.Candidate, text: str, benchmark: str | None = None) -> None:
        for b in [benchmark] if benchmark else self.x.config.benchmark:
            rows = [
                {"id": f"{b}/{i}", "completion": f"{text} replies so to {i}", "prompt_tokens": 5}
                for i in range(3)
            ]
            for step in grid.replies(self.x, candidate, b):
                mine = [row for row, half in zip(rows, HALF, strict=True) if half == step.settings["half"]]
                self.write(step, lambda f, mine=mine: schema.write_jsonl(f / "completions.jsonl", mine))

    def found(self) -> dict[str, dict[str, Any]]:
        return {g["name"]: g for g in checks.check(self.x, self.store, self.candidates)}

    def by(self, method: str) -> grid.Candidate:
        return next(c for c in self.candidates if c.point.method == method)


class Encoder:
    """A tokenizer whose template makes `bos` BOS tokens and `length` tokens in all."""

    bos_token_id, eos_token_id, chat_template, name_or_path = 1, 2, "template", "nowhere"

    def __init__(self, bos: int = 1, length: int = 5) -> None:
        self.ids = [1] * bos + [7] * (length - bos)

    def apply_chat_template(self, messages: Any, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": self.ids}


@pytest.fixture
def made(x: plan.Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.setattr(checks, "_tokenizer", lambda folder: Encoder())
    return Made(x, tmp_path)


def failing(made: Made) -> set[str]:
    return {name for name, check in made.found().items() if check["status"] != "pass"}


def test_sound_artifacts_pass(made: Made) -> None:
    found = made.found()
    assert failing(made) == set()
    assert set(found) == {
        "single BOS", "training labels", "train and test are disjoint", "adapters change weights", "adapters are applied",
        "engine agrees with transformers", "verdicts are valid", "answers are whole", "rho is defined",
    }  # fmt: skip
    assert all(check["detail"] and check["affects"] == [] for check in found.values())


@pytest.mark.parametrize(("bos", "said"), [(2, "two BOS"), (0, "0 BOS")])
def test_a_doubled_or_missing_bos(bos: int, said: str, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_tokenizer", lambda folder: Encoder(bos))
    found = made.found()["single BOS"]
    assert found["status"] == "fail" and said in found["detail"]


def test_prompts_sent_with_another_length(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that added a token of its own: the recorded length gives it away."""
    monkeypatch.setattr(checks, "_tokenizer", lambda folder: Encoder(length=6))
    found = made.found()["single BOS"]
    assert found["status"] == "fail" and "sent with another length" in found["detail"]


def test_a_broken_adapter(made: Made) -> None:
    broken = made.by("safemerge")
    assert isinstance(broken.adapter, Step)
    made.weights(broken.adapter, 0.0)
    found = made.found()["adapters change weights"]
    assert found["status"] == "fail" and found["affects"] == [broken.point.label]
    made.weights(broken.adapter, float("nan"))
    assert made.found()["adapters change weights"]["affects"] == [broken.point.label]


def test_an_engine_that_disagrees_with_transformers(made: Made) -> None:
    wrong = made.by("safemerge")
    made.parity(wrong, 0.8)
    found = made.found()["engine agrees with transformers"]
    assert found["status"] == "fail" and found["affects"] == [wrong.point.label]
    assert failing(made) == {"engine agrees with transformers"}


def test_a_judge_that_answers_nonsense(made: Made) -> None:
    """One verdict in ten is no verdict."""
    candidate = made.by("finetuned")
    verdicts = ["safe"] * 9 + ["invalid"]
    made.verdicts(candidate, "directharm", grid.judges_of(made.x, "directharm")[0], verdicts)
    found = made.found()["verdicts are valid"]
    assert found["status"] == "fail" and found["affects"] == [candidate.point.label]
    assert failing(made) == {"verdicts are valid"}


@pytest.mark.parametrize("text", ["the " * 40, "...", "no"])
def test_a_model_that_no_longer_speaks(text: str, made: Made) -> None:
    candidate = made.by("finetuned")
    for step in grid.replies(made.x, candidate, "directharm"):
        rows = [
            {"id": f"directharm/{i}", "completion": text, "prompt_tokens": 5}
            for i in range(3)
            if HALF[i] == step.settings["half"]
        ]
        made.write(step, lambda f, rows=rows: schema.write_jsonl(f / "completions.jsonl", rows))
    assert made.found()["answers are whole"]["affects"] == [candidate.point.label]
    assert failing(made) == {"answers are whole"}


def test_an_adapter_that_answers_as_the_bare_model_does(made: Made) -> None:
    """A server that ignores an unknown adapter: no error, and a perfect-looking repair."""
    made.completions(made.by("safemerge"), "aligned")
    found = made.found()["adapters are applied"]
    assert found["status"] == "fail"
    assert found["affects"] == [made.by("safemerge").point.label]
    assert failing(made) == {"adapters are applied"}


def test_an_adapter_may_agree_with_the_bare_model_on_one_benchmark(made: Made) -> None:
    made.completions(made.by("safemerge"), "aligned", "xstest")
    assert failing(made) == set()


def test_without_the_aligned_model_nothing_can_be_compared(made: Made) -> None:
    made.candidates = [c for c in made.candidates if c.adapter is not None]
    assert made.found()["adapters are applied"]["status"] == "warn"


@pytest.mark.parametrize("role", ["task", "safety", "align/safety", "safeinstruct/task"])
def test_a_test_item_in_the_training_rows(role: str, made: Made) -> None:
    """Found also when it differs in case and punctuation."""
    leaked = asdict(Example("new id", "TEST of gsm8k - number 2!", "4"))
    made.write(made.x.training_rows[role], lambda f: schema.write_jsonl(f / "rows.jsonl", [leaked]))
    found = made.found()["train and test are disjoint"]
    assert found["status"] == "fail" and f"1 of gsm8k in {role}" in found["detail"]


def test_an_equal_id_is_a_leak(made: Made) -> None:
    leaked = asdict(Example("directharm/1", "something else", "no"))
    made.write(made.x.training_rows["safety"], lambda f: schema.write_jsonl(f / "rows.jsonl", [leaked]))
    assert made.found()["train and test are disjoint"]["detail"] == "1 of directharm in safety"


@pytest.mark.parametrize(
    ("text", "prompt"), [("The answer is 4.", "How much?"), ("The answer is 4.<eos>", ""), ("", "How much?")]
)
@pytest.mark.parametrize("which", ["task LoRA", "guard LoRA", "align LoRA"])
def test_labels_without_eos_or_with_the_prompt(text: str, prompt: str, which: str, made: Made) -> None:
    x = made.x
    step = next(s for s in [*x.trained, x.alignment, x.guard] if s is not None and s.name == which)
    made.labels(step, text, prompt)
    found = made.found()["training labels"]
    assert found["status"] == "fail" and which in found["detail"]
    assert failing(made) == {"training labels"}


@pytest.mark.parametrize("flag", ["zero_v", "zero_update", "zero_projection"])
def test_modules_whose_rho_says_nothing(flag: str, made: Made) -> None:
    made.write(made.x.similarity, made.similarity([0.2, 0.4], (flag,)))
    found = made.found()["rho is defined"]
    assert found["status"] == "warn" and found["detail"] == "model.layers.1.self_attn.q_proj"


def test_a_run_without_a_table_has_no_rho_to_guard(x: plan.Experiment, tmp_path: Path) -> None:
    assert checks.defined_rho(x, Store(tmp_path))["status"] == "pass"


def test_long_lists_are_cut(made: Made) -> None:
    made.write(made.x.similarity, made.similarity([0.0] * 12, ("zero_v",)))
    assert made.found()["rho is defined"]["detail"].endswith("and 6 more")


class Tokenizer:
    eos_token_id = 9

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))


class Batch(list):
    def tolist(self) -> list[list[int]]:
        return list(self)


class Trainer:
    def __init__(self, ids: list[int], labels: list[int]) -> None:
        self.batch = {"input_ids": Batch([ids]), "labels": Batch([labels])}

    def get_train_dataloader(self) -> list[dict[str, Batch]]:
        return [self.batch]


def test_labels_are_looked_at_before_training() -> None:
    from pipeline.stages.finetune import check_labels
    from safemerge.errors import UserError

    shown = check_labels(Trainer([1, 2, 3, 9, 0], [-100, -100, 3, 9, -100]), Tokenizer())
    assert shown == [{"prompt": "1 2", "labels": "3 9"}]
    for labels, said in (
        ([-100] * 5, "no unmasked label"),
        ([1, 2, 3, 9, -100], "covers the prompt"),
        ([-100, -100, 3, -100, -100], "misses the EOS"),
    ):
        with pytest.raises(UserError, match=said):
            check_labels(Trainer([1, 2, 3, 9, 0], labels), Tokenizer())


def test_rows_too_long_are_left_out_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut rows would have no EOS: the model would never learn to stop."""
    from data.chat import Encoded
    from pipeline.stages import finetune
    from safemerge.errors import UserError

    monkeypatch.setattr(
        finetune,
        "example_ids",
        lambda t, prompt, response, system: Encoded([1] * len(prompt), [1] * len(prompt)),
    )
    pairs = [("a" * 5, "x")] * 40
    assert len(finetune.encode(None, [*pairs, ("a" * 9, "x")], None, 8)) == 40
    with pytest.raises(UserError, match="max_length=8"):
        finetune.encode(None, [*pairs, *[("a" * 9, "x")] * 10], None, 8)


def test_one_wide_gap_does_not_fail_the_engine_check_but_many_do():
    """A token that was re-tokenised weighs at most one nat; an adapter that was not applied is off at many tokens."""
    from pipeline.stages.parity import summary

    assert summary([0.0] * 91 + [9.0])["mean_gap"] == pytest.approx(1 / 92)
    assert summary([0.0] * 60 + [9.0] * 32)["mean_gap"] > checks.MAX_GAP
    assert summary([]) == {"tokens": 0, "mean_gap": 0.0, "largest_gap": 0.0, "likeliest": 0}
