"""What lies in the artifacts of the store: their files' names, and typed readers of them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from data.schema import Completion, Example, GuardRow, Item, Measure, Verdict, read_rows
from evaluation.run_file import Check, EffectiveRecord, Git, Usage
from pipeline.content import folder_digest
from pipeline.store import MANIFEST
from safemerge.changes import Changes
from safemerge.errors import UserError
from safemerge.table import ModuleRow, read_table

ROWS = "rows.jsonl"  # prepare: examples, items or labelled pairs
MODEL = "model.json"  # prepare: where a model lies that is not in the artifact itself
HEAD = "head.npz"  # prepare: of a probe judge
LOG = "log.jsonl"  # finetune: the training curve
LABELS = "labels.json"  # finetune: what the first batch was trained on
SIMILARITY = "similarity.csv"
REPAIR = "repair.json"  # merge: what the repair reported
COMPLETIONS = "completions.jsonl"
PARITY = "parity.json"
VERDICTS = "verdicts.jsonl"
MEASURES = "measures.jsonl"  # likelihood
THRESHOLD = "threshold.json"  # judge: of a guard, on P(unsafe); a probe judge has its own in its head
USAGE = "usage.json"  # judge: of a server
CHECKS = "checks.json"
SCORES = "scores.json"  # lm_eval
ADAPTER = "adapter_config.json"  # PEFT's


@dataclass(frozen=True)
class LabelRow:
    """A row of a training's first batch, decoded: what is masked, and what the loss covers."""

    prompt: str
    labels: str


@dataclass(frozen=True)
class Labels:
    """What a training was fed: rows used, rows left out as too long, and its first batch."""

    rows: int
    too_long: int
    eos: str
    first_batch: list[LabelRow] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        (folder / LABELS).write_text(json.dumps(asdict(self), indent=1))


@dataclass(frozen=True)
class Parity:
    """How far transformers and the engine disagree over the tokens that the engine wrote.

    Gaps (nats, >= 0) are those of `pipeline.stages.parity.read`, clipped one by one in the mean; `likeliest` counts the
    tokens without one, `off` those whose gap is above a nat. `excess` is by how much the engine finds its tokens
    likelier than transformers does, per token (nats); `bare_excess` the same without the adapter, None where there is none.
    """

    prompts: list[str]
    tokens: int
    mean_gap: float
    largest_gap: float
    likeliest: int
    off: int
    excess: float
    bare_excess: float | None = None

    def write(self, folder: Path) -> None:
        (folder / PARITY).write_text(json.dumps(asdict(self), indent=1) + "\n")


def model_folder(artifact: Path) -> str:
    """Where the model of a prepared artifact lies: in it, or elsewhere (a hub model in the hub's own cache).

    Raises:
        UserError: it lay elsewhere and is gone, or a folder of the user's own has other content than it had.
    """
    pointer = artifact / MODEL
    if not pointer.exists():
        return str(artifact)
    found = json.loads(pointer.read_text())
    path = str(found["path"])
    if not Path(path).is_dir():
        problem = "is gone from"
    elif "content" in found and folder_digest(Path(path)) != found["content"]:
        problem = "is another one by now in"
    else:
        return path
    raise UserError(
        f"the model that {artifact} stands for {problem} {path}: delete {artifact} and rerun the same command"
    )


def tokenizer(folder: Path) -> Any:
    """The tokenizer of a prepared model."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_folder(folder))


def items(folder: Path) -> list[Item]:
    return read_rows(folder / ROWS, Item)


def examples(folder: Path) -> list[Example]:
    return read_rows(folder / ROWS, Example)


def labelled_pairs(folder: Path) -> list[GuardRow]:
    return read_rows(folder / ROWS, GuardRow)


def completions(folder: Path) -> list[Completion]:
    return read_rows(folder / COMPLETIONS, Completion)


def replies(folder: Path) -> list[Completion]:
    """What is to be judged: completions, or the replies of labelled pairs."""
    if (folder / COMPLETIONS).exists():
        return completions(folder)
    return [Completion(row.id, row.prompt, row.response) for row in labelled_pairs(folder)]


def verdicts(folder: Path) -> list[Verdict]:
    return read_rows(folder / VERDICTS, Verdict)


def measures(folder: Path) -> list[Measure]:
    return read_rows(folder / MEASURES, Measure)


def threshold(folder: Path) -> float:
    return float(json.loads((folder / THRESHOLD).read_text())["threshold"])


def similarity(folder: Path) -> list[ModuleRow]:
    return read_table(folder / SIMILARITY)


def changes(folder: Path) -> Changes:
    """What the repair reported of itself."""
    return TypeAdapter(Changes).validate_json((folder / REPAIR).read_text())


def shrink(folder: Path) -> float | None:
    """What a projection multiplied the length of its updates by, the median; None where it projected no update."""
    return changes(folder).shrink


def labels(folder: Path) -> Labels:
    return TypeAdapter(Labels).validate_json((folder / LABELS).read_text())


def parity(folder: Path) -> Parity:
    return TypeAdapter(Parity).validate_json((folder / PARITY).read_text())


def checks(folder: Path) -> list[Check]:
    return TypeAdapter(list[Check]).validate_json((folder / CHECKS).read_text())


def effective(folder: Path) -> EffectiveRecord | None:
    """What a merge amounts to; None where it is exact, or no merge."""
    found = changes(folder).effective if (folder / REPAIR).exists() else None
    return None if found is None else EffectiveRecord(**asdict(found))


def usage(folder: Path) -> Usage | None:
    """What a server judge was asked for one file of verdicts; None where it was no server."""
    path = folder / USAGE
    return Usage.model_validate_json(path.read_text()) if path.exists() else None


@dataclass(frozen=True)
class Made:
    """What the manifest says of how an artifact was made."""

    peak_memory_bytes: int
    code: str


def made(folder: Path) -> Made:
    manifest = json.loads((folder / MANIFEST).read_text())
    git = manifest.get("git") or {"commit": None, "dirty": None}
    return Made(manifest["peak_memory_bytes"], Git.model_validate(git).code)
