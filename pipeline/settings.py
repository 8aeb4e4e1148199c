"""What may be set, as checked models: the shape of a composed config. Imports no torch.

A node with `kind` has the fields of that kind and no others, so that a setting which would change nothing is refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from data.dataset import Source
from evaluation.run_file import Display, Role
from pipeline.judge_settings import Judge
from pipeline.section import Address, Count, Name, Section
from pipeline.shape import Shape

StageName = Literal["prepare", "finetune", "similarity", "merge", "generate", "judge", "report"]
Dtype = Literal["auto", "bfloat16", "float16", "float32"]


class HubMember(Section):
    """A model on the hub, at a pinned revision."""

    kind: Literal["hub"]
    id: str
    revision: str | None = None
    download_gb: float = Field(0.0, ge=0)
    gated: bool = False


class GgufMember(Section):
    """A model in a Python package, as a GGUF file."""

    kind: Literal["gguf"]
    package: str
    file: str


class LocalMember(Section):
    """A folder of your own."""

    kind: Literal["local"]
    path: str


class ScratchMember(Section):
    """A Llama trained from scratch on bundled text."""

    kind: Literal["scratch"]
    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    num_key_value_heads: Count
    vocab_size: int = Field(ge=300)
    learning_rate: float = Field(gt=0)
    steps: Count
    batch_size: Count


class TunedMember(Section):
    """The base model after a safety-tuning stage of ours."""

    kind: Literal["tuned"]


#: One member of the base/aligned pair.
Member = Annotated[
    HubMember | GgufMember | LocalMember | ScratchMember | TunedMember, Field(discriminator="kind")
]


class Model(Section):
    name: Name
    note: str = ""  # what readers of its numbers must know
    parameters: float = Field(gt=0)
    shape: Shape | None = None  # what memory and time are counted from; None: guessed from the parameters
    system_prompt: str | None
    base: Member
    aligned: Member


class Task(Section):
    name: Name
    dataset: str


class Limits(Section):
    items: dict[str, Count | None]


class DatasetPlace(Section):
    """Where one data set lies, in place of what the source says; absent values are left to it."""

    id: str | None = None
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    gated: bool | None = None
    test_ids: str | None = None
    file: str | None = None
    bundled: str | None = None
    target: str | None = None  # package.module.NAME of a data.dataset.Dataset of your own


class DataSource(Section):
    source: Literal["bundled", "local", "hub"]
    root: str | None
    limits: Limits
    datasets: dict[str, DatasetPlace]

    def where(self) -> Source:
        """All but the limits, as `data` reads it."""
        return cast(Source, self.model_dump(exclude={"limits"}))


class Lora(Section):
    r: int = Field(ge=1, le=1024)
    lora_alpha: float = Field(gt=0)
    lora_dropout: float = Field(ge=0, lt=1)
    target_modules: Annotated[list[str], Field(min_length=1)] | Annotated[str, Field(min_length=1)]
    use_rslora: bool


class Training(Section):
    """What one of the trainings is fed: rows of its data set, and deviations from `train.args`."""

    limit: Count | None = None
    args: dict[str, Any] = Field(default_factory=dict)


class SafeInstructTraining(Training):
    safety_limit: Count | None = None


class AlignTraining(Training):
    helpful_limit: int | None = Field(None, ge=0)


class Train(Section):
    devices: Count
    parallel: Literal["ddp", "fsdp"]
    dtype: Dtype
    role_seeds: Literal["shared", "apart"]
    lora: Lora
    args: dict[str, Any]
    task: Training
    safety: Training
    safeinstruct: SafeInstructTraining
    align: AlignTraining | None
    guard: Training | None


class Generation(Section):
    backend: Literal["vllm", "transformers", "server"]
    servers: list[Address]
    dtype: Dtype
    temperature: float = Field(ge=0)
    top_p: float = Field(gt=0, le=1)
    seed: int
    max_tokens: dict[str, Count]
    max_num_seqs: Count
    max_loras: Count
    gpu_memory_utilization: float = Field(gt=0, le=1)
    tensor_parallel_size: Count
    data_parallel_size: Count


class Benchmark(Section):
    target_: str = Field(alias="_target_")
    name: str = Field(min_length=1)  # what tables call it
    role: Role
    dataset: str
    max_tokens: Count | None = None  # of a reply; null: generation.max_tokens


class Method(BaseModel):
    """A defence: the function that gives its points, how tables show it, and the function's own keyword arguments."""

    model_config = ConfigDict(extra="allow")
    target_: str = Field(alias="_target_")
    display: Display = Display()

    @property
    def knobs(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Selection(Section):
    harm: str | None
    keep_gain: float = Field(ge=0, le=1)
    grid: Literal["dev", "all", "none"]


class Likelihood(Section):
    prompts: int | None = Field(gt=0)


class Tracking(Section):
    backend: Literal["wandb", "off"]
    mode: Literal["auto", "online", "offline"]
    project: str = Field(min_length=1)
    entity: str | None
    group: str | None
    log_adapters: bool
    log_completions: bool
    dir: str = Field(min_length=1)


class Config(Section):
    """The whole experiment, resolved."""

    seed: int = Field(ge=0, lt=2**31)  # numpy takes 32 bits, and roles add to it
    stages: list[StageName] = Field(min_length=1)
    dry_run: bool
    task_adapter: str | None
    safety_adapter: str | None
    store: str = Field(min_length=1)
    locks: Literal["native", "lease"]
    runs: str = Field(min_length=1)
    selection: Selection
    likelihood: Likelihood
    data: DataSource
    train: Train
    generation: Generation
    benchmark: dict[str, Benchmark]
    judge: dict[str, Judge]
    method: dict[str, Method] = Field(min_length=1)
    task: Task
    model: Model
    tracking: Tracking

    def reply_limit(self, benchmark: str) -> int:
        """The most tokens of a reply to that benchmark: its own limit, or what this kind of machine can write."""
        limits = self.generation.max_tokens
        return self.benchmark[benchmark].max_tokens or limits.get(benchmark, limits["default"])
