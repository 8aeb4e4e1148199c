"""A finished run in small: sound artifacts for everything that the checks read, without a model or an engine."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import save_file

from data.chat import example_ids, prompt_ids
from data.schema import Completion, Example, GuardRow, Item, Verdict, Word, ids_digest, write_jsonl
from evaluation.run_file import Check, HalfName
from pipeline import answers, artifacts, checks, grid, plan
from pipeline.artifacts import ADAPTER, COMPLETIONS, ROWS, SIMILARITY, VERDICTS, LabelRow, Labels, Parity
from pipeline.config import check
from pipeline.stages.finetune import load_pairs
from pipeline.store import Step, Store
from safemerge.table import ModuleRow, write_table

CONF = Path(__file__).resolve().parents[1] / "conf"
HALF: tuple[HalfName, ...] = ("dev", "test", "dev")  # of the three prompts of each benchmark
OPENING = "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
TURNS = "{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] }}<eos>{% endfor %}" + OPENING
TEMPLATE = "<bos>" + TURNS


@functools.cache
def experiment() -> plan.Experiment:
    """One of the tiny model with a trained guard beside the phrase judge, and one point of the grid."""
    setting = ["method.safemerge.tau=0.3", "method.safemerge.alpha=0.7"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return plan.build(check(compose("config", ["model=tiny", "judge=[guard,refusal]", *setting])))


def tokenizer(template: str = TEMPLATE) -> Any:
    """Of bytes, so that what it decodes to is what was encoded, letter by letter."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(["<bos>", "<eos>", "<turn>"])
    made = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<bos>", eos_token="<eos>")
    made.chat_template = template
    return made


def replies(name: str) -> list[str]:
    """What a model of that name says to the three prompts."""
    return [f"{name} replies so to {i}" for i in range(3)]


class FinishedRun:
    """A store with small sound artifacts; faults are planted by writing some of them anew."""

    def __init__(self, folder: Path) -> None:
        self.x, self.store = experiment(), Store(folder)
        x, self.tokenizer = self.x, tokenizer()
        self.write(x.similarity, self.similarity([0.2, 0.4]))
        for step in (x.base, x.aligned, *x.judge_models.values()):
            self.model(step)
        for name, step in x.training_rows.items():
            if name == "guard":
                pairs = [GuardRow(f"guard/{i}", f"asked {i}", f"said {i}", "safe") for i in range(3)]
                self.write(step, lambda f, pairs=pairs: write_jsonl(f / ROWS, pairs))
            else:
                self.examples(
                    step, *(Example(f"{name}/{i}", f"train on {name} {i}", f"ok, {i}") for i in range(3))
                )
        for name, step in x.items.items():
            rows = [Item(f"{name}/{i}", f"test of {name}, number {i}", half=HALF[i]) for i in range(3)]
            self.write(step, lambda f, rows=rows: write_jsonl(f / ROWS, rows))
        for step in self.trainings:
            self.labels(step, self.first_batch(step))
        self.calibration(["safe", "safe", "unsafe", "unsafe"] * 2)
        self.candidates = grid.candidates(x, self.store)
        for c in self.candidates:
            self.completions(c, replies(c.point.label))
            self.parity(c)
            if isinstance(c.adapter, Step):
                self.weights(c.adapter, 1.0)
            for b, judges in c.verdicts.items():
                for judge in judges:
                    self.verdicts(c, b, judge, ["safe", "unsafe", "safe"])

    @property
    def trainings(self) -> list[Step]:
        return [*self.x.trained, *(s for s in (self.x.alignment, self.x.guard) if s)]

    def found(self) -> dict[str, Check]:
        """What the checks say, by their names."""
        return {its.name: its for its in checks.check(self.x, self.store, self.candidates)}

    def by(self, method: str) -> grid.Candidate:
        return next(c for c in self.candidates if c.point.method == method)

    def training(self, name: str) -> Step:
        return next(step for step in self.trainings if step.name == name)

    def write(self, step: Step, fill: Callable[[Path], Any]) -> None:
        """Put content into a step, anew if it is there."""
        if not self.store.has(step):
            self.store.partial(step).mkdir(parents=True)
            self.store.commit(step, {})
        fill(self.store.path(step))

    def model(self, step: Step, template: str = TEMPLATE) -> None:
        """A model of which there is only the tokenizer."""
        self.write(step, tokenizer(template).save_pretrained)

    def examples(self, step: Step, *rows: Example) -> None:
        self.write(step, lambda folder: write_jsonl(folder / ROWS, rows))

    def first_batch(self, step: Step) -> list[LabelRow]:
        """The first two rows of a training, masked as they should be."""
        inputs = {role: self.store.path(source) for role, source in step.inputs.items()}
        system = step.settings["system_prompt"]
        rows = [example_ids(self.tokenizer, *pair, system=system) for pair in load_pairs(inputs)[:2]]
        decode = self.tokenizer.decode
        return [
            LabelRow(decode(row.input_ids[: (n := row.completion_mask.count(0))]), decode(row.input_ids[n:]))
            for row in rows
        ]

    def labels(self, step: Step, rows: list[LabelRow]) -> None:
        self.write(step, Labels(rows=3, too_long=0, eos="<eos>", first_batch=rows).write)

    def similarity(self, rhos: Sequence[float], flags: tuple[str, ...] = ()) -> Callable[[Path], None]:
        """Writes a table of which all modules but the first carry the flags."""
        names = [f"model.layers.{i}.self_attn.q_proj" for i in range(len(rhos))]
        rows = [
            ModuleRow(names[i], i, "q_proj", rho, 1.0, 1.0, 1.0, flags if i else ())
            for i, rho in enumerate(rhos)
        ]
        return lambda folder: write_table(folder / SIMILARITY, rows)

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

    def parity(self, candidate: grid.Candidate, **numbers: Any) -> None:
        """A sound comparison, but for these numbers of it."""
        assert candidate.parity is not None
        sound = {"mean_gap": 0.01, "largest_gap": 0.1, "likeliest": 90, "off": 0, "excess": 0.001}
        its = Parity(["gsm8k/0"], **{"tokens": 100, **sound, "bare_excess": 0.5, **numbers})
        self.write(candidate.parity, its.write)

    def completions(
        self,
        candidate: grid.Candidate,
        texts: Sequence[str],
        benchmark: str | None = None,
        *,
        added: Sequence[int] = (),
        finish_reason: str = "stop",
    ) -> None:
        """Three replies to each benchmark, or to one. `added`: tokens that the engine put before the prompts."""
        for b in [benchmark] if benchmark else candidate.completions:
            for half, step in candidate.completions[b].items():
                rows = []
                for item in artifacts.items(self.store.path(self.x.items[b])):
                    if item.half == half:
                        sent = prompt_ids(
                            self.tokenizer, item.prompt, system=self.x.config.model.system_prompt
                        )
                        text = texts[int(item.id.rpartition("/")[2])]
                        ids = [*added, *sent]
                        digest = ids_digest(ids)
                        rows.append(
                            Completion(
                                item.id,
                                item.prompt,
                                text,
                                len(ids),
                                5,
                                finish_reason,
                                prompt_digest=digest,
                            )
                        )
                self.write(step, lambda folder, rows=rows: write_jsonl(folder / COMPLETIONS, rows))

    def verdicts(
        self, candidate: grid.Candidate, benchmark: str, judge: str, verdicts: Sequence[Word]
    ) -> None:
        """Of three replies, or of so many as there are verdicts."""
        rows = [Verdict(f"{benchmark}/{i}", verdict) for i, verdict in enumerate(verdicts)]
        for half, step in candidate.verdicts[benchmark][judge].items():
            mine = [row for i, row in enumerate(rows) if HALF[i % 3] == half]
            self.write(step, lambda folder, mine=mine: write_jsonl(folder / VERDICTS, mine))

    def calibration(self, said: Sequence[Word]) -> None:
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
