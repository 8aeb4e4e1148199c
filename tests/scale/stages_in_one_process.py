"""A stage carried out in this process, with what it held at most. One function per stage; see `tests.scale.peaks`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts import ROWS
from pipeline.job import Job, begin
from tests.pico import peak_of_buffers

if TYPE_CHECKING:
    from tests.scale.peaks import Case


def libraries(stage: str) -> None:
    """Import what the stage imports, before a model is loaded; nothing is computed."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"  # torch counts what this thread allocates
    from transformers import AutoModelForCausalLM, LlamaForCausalLM, Qwen2ForCausalLM  # noqa: F401

    if stage == "vllm":
        from vllm import LLM  # noqa: F401
    else:
        from peft import PeftModel  # noqa: F401
        from trl import SFTTrainer  # noqa: F401

        from pipeline.stages import cpu_trainer, ranks  # noqa: F401


def resident() -> int:
    """Bytes that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def seen(work: Callable[[], object]) -> dict[str, int]:
    """Bytes that the process held before, and the most that torch had allocated at once during the work."""
    before = resident()
    return {"before": before, "peak": peak_of_buffers(work), "weights": 1}


def rows(case: Case, folder: Path, number: int) -> None:
    """Training rows whose every one has the case's length, and answers of its `new` tokens."""
    from transformers import AutoTokenizer

    from data.chat import example_ids
    from data.schema import Example, write_jsonl

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    empty = example_ids(tokenizer, "a", "b")
    end = sum(empty.completion_mask) - 1
    answer = "b" * (case.new - end)
    prompt = "a" * (case.length - len(empty.input_ids) + 2 - len(answer))
    made = example_ids(tokenizer, prompt, answer)
    assert (len(made.input_ids), sum(made.completion_mask)) == (case.length, case.new)
    (folder / "rows").mkdir(exist_ok=True)
    write_jsonl(folder / "rows" / ROWS, [Example(str(i), prompt, answer) for i in range(number)])


def train(case: Case, folder: Path) -> dict[str, int]:
    """Two steps of the training stage; of several ranks, the one that took most."""
    from pipeline.stage_settings import Finetune
    from pipeline.unkeyed import Share

    batch = case.rows * case.devices
    rows(case, folder, 2 * batch)
    lora = {
        "r": case.rank,
        "lora_alpha": 8.0,
        "lora_dropout": 0.0,
        "target_modules": list(case.targets),
        "use_rslora": False,
    }
    args = {"max_steps": 2, "num_train_epochs": 1, "learning_rate": 1e-4, "max_length": case.length}
    args |= {"logging_steps": 1, "save_steps": 100, "train_sampling_strategy": "random"}
    settings = Finetune("task", lora, case.dtype, batch, args, 0, None)
    output = folder / f"out-{case.devices}-{case.parallel}-{case.length}-{case.rank}-{case.checkpointing}"
    output.mkdir(exist_ok=True)
    share = Share(case.devices, case.rows, 1, case.checkpointing, case.parallel)
    inputs = {"model": folder / "model", "task": folder / "rows"}
    job = Job("training", json.loads(json.dumps(settings.keyed())), share, inputs, output)
    if case.devices > 1:
        return ranks(job, case, folder)
    from pipeline.stages import finetune

    begin(1)
    return seen(lambda: finetune.run([job]))


def ranks(job: Job, case: Case, folder: Path) -> dict[str, int]:
    """A training in several ranks under accelerate's launcher."""
    from pipeline.worker_process import launched
    from tests.ranks import _told
    from tests.recipe.test_fsdp import TOLD

    if case.parallel == "fsdp":
        site = folder / "site"
        site.mkdir(exist_ok=True)
        (site / "sitecustomize.py").write_text(TOLD)
        os.environ["PYTHONPATH"] = str(site)
    log = folder / "log"
    spec = {"stage": "finetune", "log": "", "jobs": [_told(job)]}
    outcome = launched(spec, case.parallel, case.devices, log, lambda *progress: None)
    if outcome.error is not None:
        raise RuntimeError(outcome.error + log.read_text()[-3000:])
    done = json.loads((job.output / "done.json").read_text())
    return {"before": 0, "peak": done["peak_memory_bytes"]}


def _requests(case: Case, folder: Path) -> list[Any]:
    from evaluation.engine import Request
    from tests.pico import write_lora
    from tests.scale.peaks import SHAPES

    its = SHAPES[case.shape]
    parts = {name: f"{'self_attn' if name[0] in 'qkvo' else 'mlp'}.{name}" for name in its.modules}
    shapes = {
        f"model.layers.{i}.{parts[name]}": size
        for i in range(its.num_hidden_layers)
        for name, size in its.adapted(list(case.targets)).items()
    }
    adapter = folder / f"lora-{case.rank}"
    if not adapter.exists():
        write_lora(adapter, rank=case.rank, shapes=shapes, base=str(folder / "model"))
    prompt = [5 + i % 200 for i in range(case.length - case.new)]
    return [Request(str(i), [*prompt[:-1], 5 + i], case.new, adapter, "cafe") for i in range(case.rows)]


def _generate(case: Case, folder: Path, backend: str) -> dict[str, int]:
    from evaluation.engine import generate

    requests = _requests(case, folder)

    def work() -> None:
        how = {"backend": backend, "dtype": case.dtype, "max_num_seqs": case.rows, "max_loras": 1}
        replies = list(generate(str(folder / "model"), requests, **how))  # type: ignore[arg-type]
        assert len(replies) == case.rows

    return seen(work)


def transformers(case: Case, folder: Path) -> dict[str, int]:
    """Generation by plain transformers."""
    return _generate(case, folder, "transformers")


def vllm(case: Case, folder: Path) -> dict[str, int]:
    """Generation by vLLM's engine in this process."""
    return _generate(case, folder, "vllm")
