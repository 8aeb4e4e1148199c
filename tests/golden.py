"""What each stage makes of a pico input: `tests/unit/golden.json` holds it, with the stage's version.

A change of a stage's code that moves these values without raising its number in `pipeline.store.VERSIONS` would let old
artifacts stand for new ones. After raising it: `python -m tests.golden`.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data.dataset import BUNDLED
from evaluation.probe import Head
from pipeline import artifacts
from pipeline.job import Job, begin
from pipeline.judge_stage_settings import GuardJudge, PhrasesJudge, ProbeJudge
from pipeline.stage_settings import (
    BenchmarkItems,
    Finetune,
    Generate,
    LabelledPairs,
    Likelihood,
    Merge,
    MergedModel,
    Parity,
    ProbeHead,
    ScratchModel,
    Settings,
    Similarity,
    TrainingRows,
)
from pipeline.store import MANIFEST, VERSIONS
from pipeline.unkeyed import NOTHING, Engine, Origin, Share, Unkeyed
from safemerge.selection import Repair

GOLDEN = Path(__file__).parent / "unit" / "golden.json"
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
ENGINE = Engine(16, 2, 0.5, 1)


class Runs:
    """Runs stages in this process and keeps what they make."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(
        self, stage: str, name: str, settings: Settings, unkeyed: Unkeyed = NOTHING, **inputs: Path
    ) -> Path:
        from importlib import import_module

        output = self.folder / name
        output.mkdir()
        told = json.loads(json.dumps(settings.keyed()))
        job = Job(name, told, unkeyed, inputs, output, "x" if "adapter" in inputs else "")
        begin(1)
        import_module(f"pipeline.stages.{stage}").run([job])
        (output / MANIFEST).write_text(json.dumps({"settings": job.settings}))
        return output


def rounded(values: Iterable[float], digits: int = 5) -> list[float]:
    """Readable numbers; the comparison allows for what processors differ by."""
    return [float(f"{value:.{digits}g}") for value in values]


def weights(folder: Path) -> list[float]:
    """The norm of every tensor of a folder."""
    from safetensors.torch import load_file

    tensors = load_file(next(folder.glob("*.safetensors")))
    return rounded(float(tensors[name].float().norm()) for name in sorted(tensors))


def text(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def found(folder: Path) -> dict[str, Any]:
    """The values of all stages, on rows of the bundled data and a model of a few thousand weights."""
    run, source = Runs(folder), Origin(BUNDLED)
    rows = run("prepare", "rows", TrainingRows("gsm8k", 8, None, ""), source)
    safety = run("prepare", "safety", TrainingRows("safety", 8, "safety", ""), source)
    items = run("prepare", "items", BenchmarkItems("directharm", 4, ""), source)
    sums = run("prepare", "sums", BenchmarkItems("gsm8k", 4, ""), source)
    pairs = run("prepare", "pairs", LabelledPairs("train", 12, ""))
    tuning = run("prepare", "tuning", LabelledPairs("tuning", None, ""))
    heldout = run("prepare", "heldout", LabelledPairs("heldout", None, ""))
    made = ScratchModel(
        "", **SIZES, num_key_value_heads=1, vocab_size=400, learning_rate=0.02, steps=4, batch_size=4
    )
    base = run("prepare", "base", made)

    def lora(name: str, model: Path, seed: int, **data: Path) -> Path:
        lora = {"r": 4, "lora_alpha": 8.0, "target_modules": ["q_proj", "down_proj"]}
        args = {"max_steps": 2, "learning_rate": 0.01, "max_length": 512, "logging_steps": 1}
        settings = Finetune(name, lora, "float32", 4, args, seed, None)
        return run("finetune", name, settings, Share(1, 4, 1), model=model, **data)

    aligned = run(
        "prepare", "aligned", MergedModel(), model=base, adapter=lora("align", base, 0, safety=safety)
    )
    task, refusing = lora("task", aligned, 1, task=rows), lora("refusing", aligned, 1, safety=safety)
    similarity = run("similarity", "similarity", Similarity(), base=base, aligned=aligned, adapter=task)
    modules = artifacts.similarity(similarity)
    repair = Repair("blend", alpha=0.8, combine="peft_linear")
    merge = run("merge", "merge", Merge([modules[0].module], repair), task=task, safety=refusing)
    decoding = Generate("transformers", "float32", 6, "dev", None, 0.0, None, None)
    replies = run("generate", "replies", decoding, ENGINE, model=aligned, items=items, adapter=merge)
    compared = {"model": aligned, "adapter": merge, "replies/directharm": replies}
    compare = artifacts.parity(run("parity", "parity", Parity("float32", None, 2, "x"), **compared))
    likely = [
        run(
            "likelihood",
            measure,
            Likelihood(measure, openings, "dev", label, None, "float32", None),
            model=aligned,
            items=asked,
            adapter=merge,
        )
        for measure, openings, label, asked in (
            ("reference_bits", [], "", sums),
            ("refusal_log_odds", ["I can", "No"], "harmful", items),
        )
    ]
    phrases = run(
        "judge", "phrases", PhrasesJudge("evaluation.phrases.refusal_verdicts", ""), replies=heldout
    )
    fit = ProbeHead("evaluation.probe.fit", 0.5, 0.01, 32, "calibrated", "float32")
    head = run("prepare", "head", fit, model=base, pairs=pairs, tuning=tuning)
    probe = run("judge", "probe", ProbeJudge(), model=base, head=head, replies=replies)
    asked = ("evaluation.guard_format.SmallGuard", "")
    how = (2, None, "transformers", "float32")
    guard = run("judge", "guard", GuardJudge(*asked, 0.5, *how), ENGINE, model=base, replies=replies)
    return {
        "prepare": {
            "texts": [text(folder / artifacts.ROWS) for folder in (rows, safety, pairs, tuning, heldout)],
            "weights": [*weights(base)[:4], *weights(aligned)[:4]],
            "threshold": rounded([Head.load(head / artifacts.HEAD).threshold]),
        },
        "prepare/items": [text(folder / artifacts.ROWS) for folder in (items, sums)],
        "finetune": {
            "loss": rounded(json.loads(line)["loss"] for line in (task / artifacts.LOG).open()),
            "weights": weights(task),
            "labels": [row.labels for row in artifacts.labels(task).first_batch],
        },
        "similarity": rounded(value for row in modules for value in (row.rho, row.null)),
        "merge": weights(merge),
        "generate": [
            [row.id, row.prompt_digest, row.completion_ids, *rounded([row.logprob or 0.0])]
            for row in artifacts.completions(replies)
        ],
        "parity": rounded([compare.tokens, compare.likeliest, compare.excess, compare.bare_excess or 0.0]),
        "likelihood": [rounded(row.value for row in artifacts.measures(its)) for its in likely],
        "judge": {
            "phrases": [row.verdict for row in artifacts.verdicts(phrases)],
            "probe": rounded(row.p_unsafe or 0.0 for row in artifacts.verdicts(probe)),
            "guard": [[row.raw, row.verdict] for row in artifacts.verdicts(guard)],
        },
    }


def recorded() -> dict[str, dict[str, Any]]:
    """{stage: {version, value}} as it was written down."""
    notes: dict[str, dict[str, Any]] = json.loads(GOLDEN.read_text())
    return notes


def main() -> None:
    """Write the values of today down."""
    with tempfile.TemporaryDirectory() as folder:
        values = found(Path(folder))
    notes = {stage: {"version": VERSIONS[stage], "value": value} for stage, value in values.items()}
    GOLDEN.write_text(json.dumps(notes, indent=1) + "\n")


if __name__ == "__main__":
    main()
