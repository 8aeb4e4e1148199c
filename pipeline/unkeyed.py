"""What a stage is told beside its settings: where things lie and how the work is done, which changes no artifact.

None of it is in a key. What changes an artifact is in `pipeline.stage_settings`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from data.dataset import Source


@dataclass(frozen=True)
class Unkeyed:
    """Nothing, which is what most stages are told."""


NOTHING = Unkeyed()


@dataclass(frozen=True)
class Origin(Unkeyed):
    """Where rows are read from; their content is in the key, as a fingerprint."""

    source: Source


@dataclass(frozen=True)
class Folder(Unkeyed):
    """Where a model of the user's own lies."""

    path: str


@dataclass(frozen=True)
class Share(Unkeyed):
    """How devices share a batch: each takes `rows` at once, and adds up `accumulation` of these before a step.

    parallel: `ddp`, each device holds the whole model, or `fsdp`, each a part. gradient_checkpointing: activations are
    computed anew in the backward pass, which saves memory.
    """

    devices: int
    rows: int
    accumulation: int
    gradient_checkpointing: bool = False
    parallel: str = "ddp"


@dataclass(frozen=True)
class Engine(Unkeyed):
    """How the engine batches, and what of the machine it takes; `data_parallel_size` engines share the requests.
    Or which servers are asked."""

    max_num_seqs: int
    max_loras: int
    gpu_memory_utilization: float
    tensor_parallel_size: int
    data_parallel_size: int = 1
    servers: Sequence[str] = ()


@dataclass(frozen=True)
class Asking(Unkeyed):
    """How a server is asked, and its prices per million prompt and completion tokens."""

    api_key_env: str
    attempts: int
    parallel: int
    timeout_s: float
    prompt_price: float
    completion_price: float


@dataclass(frozen=True)
class Tasks(Unkeyed):
    """How lm-evaluation-harness works: where tasks from outside are defined, prompts at once, and the engine's part."""

    include_path: str | None
    batch_size: int
    gpu_memory_utilization: float
    tensor_parallel_size: int


@dataclass(frozen=True)
class Whole(Unkeyed):
    """The whole experiment, for the checks, which read all of it: its config (as JSON) and where its store is."""

    config: dict[str, Any]
    store: str


FORMS: dict[str, type[Unkeyed]] = {
    form.__name__: form for form in (Unkeyed, Origin, Folder, Share, Engine, Asking, Tasks, Whole)
}


def written(its: Unkeyed) -> dict[str, Any]:
    """As it goes to the worker."""
    return {"form": type(its).__name__, **asdict(its)}


def read(found: dict[str, Any]) -> Unkeyed:
    """What `written` gave."""
    return FORMS[found["form"]](**{key: value for key, value in found.items() if key != "form"})
