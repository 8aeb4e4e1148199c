"""Every path that a run at the paper's scale may take, and which tests execute it here, by what.

Whether a test has run, when and at which commit is nowhere said by hand: `tests.scale.record` writes it down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

By = Literal["miniature", "loopback", "two processes", "one process", "GPU"]


@dataclass(frozen=True)
class Path:
    """One path: `tests` are beginnings of pytest's ids, each of which must have passed."""

    what: str
    by: By
    tests: tuple[str, ...]


UNIT, RECIPE, SCALE = "tests/unit/test_", "tests/recipe/test_", "tests/scale/test_"
#: Beside the models, which record their own stages (`tests/scale/test_paper_models.py`).
PATHS = (
    Path("hub: only what is read is fetched", "loopback", (f"{UNIT}hub_downloads.py::test_only_what",)),
    Path("hub: a dropped connection goes on", "loopback", (f"{UNIT}hub_downloads.py::test_a_connection",)),
    Path("hub: truncated, corrupted, gone", "loopback", (f"{UNIT}hub_downloads.py::test_a_fault",)),
    Path("hub: slow answers, 429", "loopback", (f"{UNIT}hub_downloads.py::test_a_slow",)),
    Path("hub: gated, missing, moved", "loopback", (f"{UNIT}hub_downloads.py::test_gated",)),
    Path("hub: a filled cache offline", "loopback", (f"{UNIT}hub_downloads.py::test_a_filled_cache",)),
    Path("hub: rows of another revision", "loopback", (f"{UNIT}hub_downloads.py::test_rows_of_another",)),
    Path("hub: a branch becomes a commit", "loopback", (f"{UNIT}revisions.py::test_the_commit",)),
    Path("GitHub: the Bianchi file, by commit and hash", "loopback", (f"{UNIT}github.py",)),
    Path(
        "training: DDP trains the batches of one process",
        "two processes",
        (f"{UNIT}ranks.py::test_two_processes",),
    ),
    Path("training: FSDP2, and its checkpoint", "two processes", (f"{RECIPE}fsdp.py::test_fsdp_trains",)),
    Path(
        "generation: engines that share the requests",
        "two processes",
        (f"{RECIPE}engines.py::test_two_engines",),
    ),
    Path(
        "generation: vLLM serves a LoRA as transformers does",
        "one process",
        (f"{RECIPE}vllm_adapter.py",),
    ),
    Path("generation: `vllm serve`, bare and with a LoRA", "loopback", (f"{SCALE}vllm_serve.py",)),
    Path("generation: several servers, busy ones, keys", "loopback", (f"{UNIT}server_engine.py",)),
    Path("judge: a guard behind servers", "loopback", (f"{UNIT}server_engine.py::test_a_guard",)),
    Path("judge: what a guard reads, ShieldGemma's policies", "one process", (f"{UNIT}guard_reads.py",)),
    Path("judge: ShieldGemma, fetched, served, read and reported", "miniature", (f"{SCALE}shieldgemma.py",)),
    Path(
        "jobs: joblib, 8 on 2 workers",
        "two processes",
        (f"{SCALE}launchers.py::test_eight_jobs_on_two_workers[joblib",),
    ),
    Path(
        "jobs: submitit (Slurm's launcher, its local executor)",
        "two processes",
        (f"{SCALE}launchers.py::test_eight_jobs_on_two_workers[submitit",),
    ),
    Path(
        "jobs: a Ray cluster", "two processes", (f"{SCALE}launchers.py::test_eight_jobs_on_two_workers[ray",)
    ),
    Path(
        "jobs: a killed one's work is taken over", "two processes", (f"{SCALE}launchers.py::test_a_killed",)
    ),
    Path(
        "jobs: one that fails does not end the others", "one process", (f"{UNIT}multirun.py::test_the_jobs",)
    ),
    Path("store: locks and leases", "two processes", (f"{UNIT}locks.py::test_two_jobs",)),
    Path(
        "lm-eval: a task on a row, by transformers", "one process", (f"{UNIT}lm_eval.py::test_a_local_task",)
    ),
    Path("plan: memory, hours, hardware configs", "one process", (f"{UNIT}memory.py", f"{UNIT}budget.py")),
    Path("plan: the paper's models, offline", "one process", (f"{UNIT}overview.py::test_the_plan",)),
)


@dataclass(frozen=True)
class Remaining:
    """What nothing here can execute, and why."""

    what: str
    why: Literal["size", "gated weights", "hardware"]


REMAINING = (
    Remaining("the weights of Llama, Qwen, Llama-Guard-3 and ShieldGemma themselves", "gated weights"),
    Remaining("rows of HEx-PHI", "gated weights"),
    Remaining("7 to 9 billion parameters in memory: training, merging, serving", "size"),
    Remaining("CUDA: kernels, CUDA graphs, fused attention and loss, bfloat16 on a GPU", "hardware"),
    Remaining("NCCL between GPUs; vLLM's tensor parallelism", "hardware"),
    Remaining("a Slurm controller; a Ray cluster of several machines; a network file system", "hardware"),
    Remaining("lm-eval's vLLM backend, which asks for vLLM's CUDA distribution", "hardware"),
)


def needed() -> list[str]:
    """What pytest is given: the long tests, and the files of the others."""
    files = dict.fromkeys(test.partition("::")[0] for path in PATHS for test in path.tests)
    return ["tests/scale", *(file for file in files if not file.startswith("tests/scale"))]
