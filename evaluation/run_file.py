"""run.json: the index of a run's artifacts, as models that the pipeline writes and the report, the README and tests read.

Paths in it are relative to its folder, or absolute.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evaluation.judges import Calibration
from safemerge.errors import UserError
from safemerge.whole_files import write_whole

HalfName = Literal["dev", "test"]
Measured = Literal["reference_bits", "refusal_log_odds"]
Role = Literal["utility", "harm", "over_refusal"]
#: The continuous measure of each role: bits per token of the reference answer; log-odds of opening with a refusal.
MEASURED: dict[Role, Measured] = {
    "utility": "reference_bits",
    "harm": "refusal_log_odds",
    "over_refusal": "refusal_log_odds",
}
HALVES: tuple[HalfName, ...] = ("dev", "test")


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="constants")


class Display(Part):
    """How tables and figures show a method: its conf/method file says so, and nothing else does."""

    name: str = ""  # "": the method's own
    order: int = 1000  # rows are sorted by it
    colour: Annotated[str, Field(pattern="^#[0-9A-Fa-f]{6}$")] = "#000000"
    marker: Annotated[str, Field(pattern=r"^[.,ov^<>1-8spP*hH+xXdD|_]$")] = "d"  # matplotlib's, as the hatch
    hatch: Annotated[str, Field(pattern=r"^[-/\\|+xoO.*]*$")] = ""
    control: bool = False  # what the method is measured against; takes SafeMERGE's number of modules


class Usage(Part):
    """What a server judge was asked and what it cost, over all files of verdicts."""

    requests: int
    failures: int
    prompt_tokens: int
    completion_tokens: int
    cost: float


class JudgeRecord(Part):
    calibration: Calibration | None = None
    usage: Usage | None = None


class BenchmarkRecord(Part):
    """`target` is the scorer, `name` what tables call it, `items` its prompts."""

    role: Role
    target: str
    name: str
    items: str


class EffectiveRecord(Part):
    """What a merge amounts to (`safemerge.effective`): task dW_f + safety dW_s + rest, medians over the modules.

    NaN where no module has one. rest: share of the merged update's norm. cosine_a: of the adapters' A.
    """

    task: float
    safety: float
    rest: float
    cosine_a: float


class Projection(Part):
    """SafeLoRA's repair: by which projector, and what it multiplied the length of its modules' updates by, the median."""

    projector: str
    shrink: float


class PointRecord(Part):
    """One method at one setting: what it merged, and the files of its completions, verdicts and measures."""

    method: str
    label: str
    display: Display
    tau: float | None = None  # resolved
    tau_setting: float | str | None = None  # as it was set: q0.5, say
    alpha: float | None = None
    combine: str | None = None  # of a blend
    draw: int | None = None  # of a random selection
    rule: str | None = (
        None  # `safemerge.selection.Rule`: how the modules are selected; None: from before it was recorded
    )
    merged_modules: int = 0
    modules: int = 0
    selected: list[str] = []
    projection: Projection | None = None  # of the selected modules; None for other repairs
    adapter: str | None = None
    safety: str = "safety"  # the role of the adapter that a blend takes
    effective: EffectiveRecord | None = None  # of a merge that is not exact
    halves: dict[str, list[HalfName]]  # of each benchmark's prompts that it answered
    completions: dict[str, list[str]]  # a file per half
    verdicts: dict[str, dict[str, list[str]]]  # benchmark, then judge
    measures: dict[str, list[str]] = {}  # of each benchmark: `MEASURED` of its role, a file per half
    harness: list[str] = []  # what lm-evaluation-harness found (`evaluation.harness`), a file per task


class Check(Part):
    """The outcome of a check of the run. A failed one marks the rows in `affects`, or all of them if that is empty."""

    name: str
    status: Literal["pass", "warn", "fail"]
    detail: str
    affects: list[str] = []


class Precision(Part):
    training: str
    generation: str


class EntryRecord(Part):
    """One (model, task, seed)."""

    model: str
    note: str = ""  # what readers of its numbers must know about the model
    task: str
    data: str
    seed: int
    role_seeds: Literal["shared", "apart", "unknown"] = "unknown"  # of the task and the safety LoRA
    precision: Precision
    similarity: str | None
    training: dict[str, str]  # role: log
    judges: dict[str, JudgeRecord]
    primary_judge: str
    selection_benchmark: str  # the harm benchmark on which tau and alpha are selected
    benchmarks: dict[str, BenchmarkRecord]
    points: list[PointRecord]
    checks: list[Check] = []


class Git(Part):
    """The code that made something. `dirty`: it was not that of the commit; `changes` is then the hash of what was not.

    None: unknown, because there was no git, or (`changes`) because it was recorded before they were hashed.
    """

    commit: str | None
    dirty: bool | None
    changes: str | None = None

    @property
    def code(self) -> str:
        """The code in short: two things that one code has made have the same."""
        changes = f"+{self.changes or 'changes'}" if self.dirty else ""
        return (self.commit or "unknown")[:10] + changes


class Gpu(Part):
    name: str
    memory_gib: float
    compute_capability: str


class Machine(Part):
    """What computed the results."""

    cpu: str
    cores: int | None
    instruction_sets: list[str] = []  # those that matter here
    memory_gib: float
    gpus: list[Gpu] = []
    python: str


class Cost(Part):
    """What one stage cost: times in seconds, memory in bytes; tokens trained on or generated."""

    title: str
    made: int
    found: int
    wall_s: float
    cpu_s: float
    tokens: int | None
    peak_memory_bytes: int


class RunFile(Part):
    """run.json of one run, or of the same run over several seeds."""

    run: str
    fingerprint: str = ""
    created: str
    git: Git
    packages: dict[str, str]
    machine: Machine
    wall_time_s: float
    peak_memory_bytes: int = 0
    made_by: list[str] = []  # `Git.code` of the artifacts
    costs: list[Cost] = []
    config: object  # all settings, for readers; what the report needs of them has a field of its own
    keep_gain: float = Field(ge=0, le=1)  # the share of the gained utility that a selected point must keep
    settings: str = ""  # hash of all settings but the seed
    runs: list[EntryRecord] = Field(min_length=1)

    def write(self, path: Path) -> None:
        """In one step: the file is whole, or as it was."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, self.model_dump_json(indent=1) + "\n")


def read_run(path: Path) -> RunFile:
    """A run.json.

    Raises:
        UserError: there is none, or it is not of this version's form.
    """
    try:
        return RunFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; give the run.json of a finished run"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise UserError(
            f"{path} is no run.json of this version: {where}: {first['msg']}{more}; run `make report` to write it anew"
        ) from error
