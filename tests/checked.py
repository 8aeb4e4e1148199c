"""A run's artifacts, small and sound, for tests that plant one fault in them and look at what the checks say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import save_file

from data.schema import Completion, Example, GuardRow, Item, Verdict, Word, write_jsonl
from evaluation.run_file import Check, HalfName
from pipeline import answers, checks, grid, plan
from pipeline.artifacts import ADAPTER, COMPLETIONS, ROWS, SIMILARITY, VERDICTS, LabelRow, Labels, Parity
from pipeline.config import check
from pipeline.store import Step, Store
from safemerge.table import ModuleRow, write_table

CONF = Path(__file__).resolve().parents[1] / "conf"
HALF: tuple[HalfName, ...] = ("dev", "test", "dev")  # of the three prompts of each benchmark


def planned() -> plan.Experiment:
    """The tiny one, with a judge that is trained and one point of SafeMERGE."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = [
            "model=tiny",
            "judge=[guard,refusal]",
            "method.safemerge.tau=0.3",
            "method.safemerge.alpha=0.7",
        ]
        return plan.build(check(compose("config", overrides)))


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
        its = Parity(["a"], 40, gap, gap, likeliest=40, off=0, excess=gap / 10, bare_excess=0.5)
        self.write(candidate.parity, its.write)

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


def failing(made: Made) -> set[str]:
    return {name for name, its in made.found().items() if its.status != "pass"}
