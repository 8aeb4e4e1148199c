"""The repositories of a stand-in hub: miniatures under the ids and commits that conf/ names, and data sets of real rows."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from evaluation.guard_format import GuardFormat, LlamaGuard, ShieldGemma
from tests.hub.server import Repository
from tests.miniatures import guard, models, tokenizers

ROOT = Path(__file__).resolve().parents[2]
COPIES = ROOT.parent / "shared" / "datasets"
GUARDS: dict[str, GuardFormat] = {
    "meta-llama/Llama-Guard-3-8B": LlamaGuard(),
    "meta-llama/Llama-Guard-3-1B": LlamaGuard(),
    "google/shieldgemma-9b": ShieldGemma(),
}


def _commit(name: str) -> str:
    return hashlib.sha1(name.encode()).hexdigest()


def pinned() -> dict[str, tuple[str, bool]]:
    """Commit and gate of every model of conf/, by its id."""
    nodes = []
    for path in sorted((ROOT / "conf" / "model").glob("*.yaml")):
        model = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]
        nodes += [node for node in (model["base"], model["aligned"]) if node["kind"] == "hub"]
    for path in sorted((ROOT / "conf" / "judge").glob("*.yaml")):
        nodes += [
            node for node in [yaml.safe_load(path.read_text(encoding="utf-8"))] if node["kind"] == "hub"
        ]
    return {node["id"]: (str(node["revision"]), bool(node.get("gated"))) for node in nodes}


def model(id: str, root: Path) -> Repository:
    """A miniature as a repository below `root`; made unless it is there."""
    its, folder = models.BY_ID[id], root / id
    commit, gated = pinned().get(id, (_commit(id), True))
    if not (folder / "config.json").is_file():
        models.save(its, folder, _guard(its, root) if id in GUARDS else None)
    return Repository(id, folder, commit, gated=gated)


def _guard(its: models.Miniature, root: Path) -> Any:
    from transformers import AutoTokenizer

    folder = root / f"{its.id}-tokenizer"
    folder.mkdir(parents=True)
    tokenizers.write(folder, its.family, aligned=True, chat=its.chat)
    (folder / "config.json").write_text(json.dumps(its.config))
    return guard.trained(models.random_model(its), AutoTokenizer.from_pretrained(folder), GUARDS[its.id])


def data_sets(root: Path) -> list[Repository]:
    """The data sets of conf/data/hub.yaml of which shared/datasets has rows, in the hub's files and columns."""
    places = yaml.safe_load((ROOT / "conf" / "data" / "hub.yaml").read_text(encoding="utf-8"))["datasets"]
    found = []
    for name, write in WRITERS.items():
        id, revision = places[name]["id"], places[name]["revision"]
        folder = root / "datasets" / id
        if not folder.is_dir():
            write(folder)
        commit = revision if len(revision) == 40 else _commit(id)
        found.append(Repository(id, folder, commit, "datasets", gated=bool(places[name].get("gated"))))
    return found


def _lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (COPIES / name).read_text(encoding="utf-8").split("\n") if line]


def _parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def _card(folder: Path, configs: dict[str, list[str]]) -> None:
    """A data card that lists its configs, each with the splits that it has."""
    listed = [
        {
            "config_name": config,
            "data_files": [{"split": split, "path": f"{config}/{split}-*"} for split in splits],
        }
        for config, splits in configs.items()
    ]
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': listed})}---\n")


def _gsm8k(folder: Path) -> None:
    for split in ("train", "test"):
        _parquet(folder / "main" / f"{split}-00000-of-00001.parquet", _lines(f"gsm8k/{split}.jsonl"))
    _parquet(folder / "socratic" / "train-00000-of-00001.parquet", [{"question": "", "answer": ""}])
    _card(folder, {"main": ["train", "test"], "socratic": ["train"]})


def _pubmedqa(folder: Path) -> None:
    """One split, as on the hub, and the large configs first, of which nothing is to be fetched."""
    rows = [*_lines("pubmedqa/train.jsonl"), *_lines("pubmedqa/test.jsonl")]
    _parquet(folder / "pqa_labeled" / "train-00000-of-00001.parquet", rows)
    _parquet(folder / "pqa_artificial" / "train-00000-of-00001.parquet", rows[:1])
    _card(folder, {"pqa_artificial": ["train"], "pqa_labeled": ["train"]})


def _directharm(folder: Path) -> None:
    _parquet(folder / "data" / "test-00000-of-00001.parquet", _lines("directharm4/test.jsonl"))


def _advbench(folder: Path) -> None:
    with (COPIES / "advbench" / "harmful_behaviors.csv").open(encoding="utf-8", newline="") as file:
        rows = [{"prompt": row["goal"], "target": row["target"]} for row in csv.DictReader(file)]
    _parquet(folder / "data" / "train-00000-of-00001.parquet", rows)


def _xstest(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "xstest_prompts.csv").write_bytes((COPIES / "xstest" / "prompts.csv").read_bytes())


def _alpaca(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "alpaca_data_cleaned.json").write_bytes((COPIES / "alpaca" / "alpaca_1000.json").read_bytes())


WRITERS = {
    "gsm8k": _gsm8k,
    "pubmedqa": _pubmedqa,
    "directharm": _directharm,
    "advbench": _advbench,
    "xstest": _xstest,
    "helpful": _alpaca,
}
