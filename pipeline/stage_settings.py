"""What each stage is told that changes what its artifact holds: in the step's key. The rest is in `pipeline.unkeyed`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from evaluation.run_file import HalfName, Measured
from safemerge.selection import Repair

Dict = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """The settings of one stage."""

    def keyed(self) -> Dict:
        """As they go into the key and to the worker."""
        return asdict(self)


@dataclass(frozen=True)
class TrainingRows(Settings):
    """`limit` rows (None: all) of a data set's training part, or of one of its disjoint parts."""

    dataset: str
    limit: int | None
    part: str | None
    fingerprint: str
    what: Literal["training"] = "training"


@dataclass(frozen=True)
class BenchmarkItems(Settings):
    """A benchmark's prompts with references, both halves; without `selecting` all are of the test half."""

    dataset: str
    limit: int | None
    fingerprint: str
    what: Literal["items"] = "items"
    selecting: bool = True

    def keyed(self) -> Dict:
        """Without what says nothing new, so that keys from before it stay."""
        return {name: value for name, value in asdict(self).items() if name != "selecting" or not value}


@dataclass(frozen=True)
class LabelledPairs(Settings):
    """Labelled (prompt, reply) pairs of one of `data.guard.SPLITS`."""

    split: str
    limit: int | None
    fingerprint: str
    what: Literal["pairs"] = "pairs"


@dataclass(frozen=True)
class HubModel(Settings):
    """A model on the hub."""

    id: str
    revision: str | None
    what: Literal["hub"] = "hub"


@dataclass(frozen=True)
class GgufModel(Settings):
    """A GGUF file in an installed package; `content` is its hash."""

    package: str
    file: str
    content: str
    what: Literal["gguf"] = "gguf"


@dataclass(frozen=True)
class LocalModel(Settings):
    """A folder of the user's own; `content` is the hash of its files, wherever they lie."""

    content: str
    what: Literal["local"] = "local"


@dataclass(frozen=True)
class ScratchModel(Settings):
    """A Llama trained from scratch; `lessons` is the hash of what it is taught."""

    lessons: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    learning_rate: float
    steps: int
    batch_size: int
    what: Literal["scratch"] = "scratch"


@dataclass(frozen=True)
class MergedModel(Settings):
    """A LoRA folded into its model."""

    what: Literal["merged"] = "merged"


@dataclass(frozen=True)
class ProbeHead(Settings):
    """The linear head of a judge that reads a frozen model's hidden states, with its threshold."""

    target: str
    depth: float
    c: float
    reply_tokens: int
    threshold: float | str
    dtype: str
    what: Literal["probe"] = "probe"


PREPARE: dict[str, type[Settings]] = {
    "training": TrainingRows,
    "items": BenchmarkItems,
    "pairs": LabelledPairs,
    "hub": HubModel,
    "gguf": GgufModel,
    "local": LocalModel,
    "scratch": ScratchModel,
    "merged": MergedModel,
    "probe": ProbeHead,
}


def of_prepare(settings: Dict) -> Settings:
    """The settings of a prepare job."""
    return PREPARE[settings["what"]](**settings)


@dataclass(frozen=True)
class Finetune(Settings):
    """One LoRA. `batch_size` rows make a step, however many devices share them; `args` are TRL's other arguments."""

    role: str
    lora: Dict
    dtype: str
    batch_size: int
    args: Dict
    seed: int
    system_prompt: str | None


@dataclass(frozen=True)
class Similarity(Settings):
    """rho of every module: nothing to set."""


@dataclass(frozen=True)
class Merge(Settings):
    """Which modules are repaired, and how."""

    selected: list[str]
    repair: Repair


def of_merge(settings: Dict) -> Merge:
    """The settings of a merge job."""
    return Merge(settings["selected"], Repair(**settings["repair"]))


@dataclass(frozen=True)
class Generate(Settings):
    """Decoding of one half of a benchmark's prompts. top_p and seed are None where decoding is greedy."""

    backend: str
    dtype: str
    max_tokens: int
    half: HalfName
    system_prompt: str | None
    temperature: float
    top_p: float | None
    seed: int | None


@dataclass(frozen=True)
class Parity(Settings):
    """The comparison of the engine with transformers; `draw` decides which prompts are looked at."""

    dtype: str
    system_prompt: str | None
    prompts_per_benchmark: int
    draw: str


@dataclass(frozen=True)
class Likelihood(Settings):
    """What a model finds likely, on the prompts of one half and label (`data.schema.Item`); `prompts` of them, None: all.

    measure: `reference_bits`, or `refusal_log_odds` of these openings.
    """

    measure: Measured
    openings: list[str]
    half: HalfName
    label: str
    prompts: int | None
    dtype: str
    system_prompt: str | None


@dataclass(frozen=True)
class Harness(Settings):
    """A task of lm-evaluation-harness; `definition` is the hash of one from outside. None: as the task has it."""

    task: str
    limit: int | None
    fewshot: int | None
    chat: bool
    system_prompt: str | None
    backend: Literal["hf", "vllm"]
    dtype: str
    definition: str
    version: str


@dataclass(frozen=True)
class Check(Settings):
    """The labels of the rows that the checks are about, and the hash of the checks' code."""

    labels: list[str]
    code: str
