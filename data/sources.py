"""Where each data set lies: the bundled files, a folder of local copies, or the hub.

Rows come out in the originals' schemas.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data import harmful, pubmedqa
from data.schema import read_jsonl
from safemerge.errors import UserError

BUNDLED_ROOT = Path(__file__).with_name("bundled")
BUNDLED: dict[tuple[str, str], str] = {
    ("gsm8k", "train"): "gsm8k_train.jsonl",
    ("gsm8k", "test"): "gsm8k_test.jsonl",
    ("pubmedqa", "train"): "pubmedqa_train.jsonl",
    ("pubmedqa", "test"): "pubmedqa_test.jsonl",
    ("safety", "train"): "safety.json",
    ("helpful", "train"): "helpful.json",
    ("directharm", "test"): "directharm.jsonl",
    ("xstest", "test"): "xstest.csv",
    ("guard", "train"): "guard_train.jsonl",
    ("guard", "calibration"): "guard_calibration.jsonl",
}
LOCAL: dict[tuple[str, str], str] = {
    ("gsm8k", "train"): "gsm8k/train.jsonl",
    ("gsm8k", "test"): "gsm8k/test.jsonl",
    ("pubmedqa", "train"): "pubmedqa/train.jsonl",
    ("pubmedqa", "test"): "pubmedqa/test.jsonl",
    ("safety", "train"): "bianchi/safety_only_data_Instructions.json",
    ("helpful", "train"): "alpaca/alpaca_1000.json",
    ("directharm", "test"): "directharm4/test.jsonl",
    ("xstest", "test"): "xstest/prompts.csv",
    ("advbench", "test"): "advbench/harmful_behaviors.csv",
    ("harmbench", "test"): "harmbench/behaviors.csv",
    ("malicious", "test"): "bianchi/eval/I-MaliciousInstructions.json",
    ("hexphi", "test"): "hexphi",
}
# The split on the hub; sets that are not named here have one split, of the same name as ours.
HUB_SPLIT = {("pubmedqa", "test"): "train", ("xstest", "test"): "train",
             ("harmbench", "test"): "train", ("advbench", "test"): "train"}  # fmt: skip
GITHUB_ONLY = {
    "safety": "vinid/safety-tuned-llamas, data/training/safety_only_data_Instructions.json",
    "malicious": "vinid/safety-tuned-llamas, data/evaluation/I-MaliciousInstructions.json",
}
HARMBENCH_KIND = "standard"  # contextual and copyright behaviours are not plain refusal prompts


def settings(name: str, source: Mapping[str, Any]) -> dict[str, Any]:
    """The `datasets` entry of `name`, without empty values."""
    entry = (source.get("datasets") or {}).get(name) or {}
    return {key: value for key, value in dict(entry).items() if value is not None}


def path_of(name: str, split: str, source: Mapping[str, Any]) -> Path | None:
    """The file that holds the split, or None for the hub. Missing files and unknown sources are errors."""
    kind, root, given = source.get("source"), source.get("root"), settings(name, source).get("file")
    if name == "guard" or kind == "bundled":
        if (name, split) not in BUNDLED:
            raise UserError(
                f"{name} ({split}) is not part of the bundled data; use data=local data.root=DIR or data=hub"
            )
        # A model too small for the bundled problems names easier ones beside them; other sources ignore the key.
        easier = settings(name, source).get("bundled")
        return BUNDLED_ROOT / (easier.format(split=split) if easier else BUNDLED[name, split])
    if kind == "hub" and given is None:
        if name in GITHUB_ONLY:
            raise UserError(
                f"{name} is not on the hub: download {GITHUB_ONLY[name]} from GitHub "
                f"and set ++data.datasets.{name}.file=PATH"
            )
        return None
    if kind not in ("local", "hub"):
        raise UserError(f"data source {kind!r} is unknown; use bundled, local or hub")
    if given is None and not root:
        raise UserError("data=local needs the folder of the files: set data.root=DIR")
    if given is None and (name, split) not in LOCAL:
        raise UserError(
            f"{name} has no {split} rows in a local copy; known: {', '.join(sorted({n for n, _ in LOCAL}))}"
        )
    path = (Path(root) if root else Path()) / (given.format(split=split) if given else LOCAL[name, split])
    path = path.expanduser()
    missing = [path / f for f in harmful.HEXPHI_FILES] if name == "hexphi" and not given else [path]
    missing = [p for p in missing if not p.is_file()]
    if missing:
        path = missing[0]
        raise UserError(
            f"the {split} rows of {name} are missing: {path}; "
            f"put the file there or set ++data.datasets.{name}.file=PATH"
        )
    return path


def read(path: Path) -> list[dict[str, Any]]:
    """Rows of a .jsonl, .json (a list, or Bianchi's object of lists) or .csv file, or of HEx-PHI's folder."""
    try:
        if path.is_dir():
            return harmful.hexphi_rows(path)
        if path.suffix == ".csv":
            with path.open(encoding="utf-8", newline="") as file:
                return list(csv.DictReader(file))
        if path.suffix == ".jsonl":
            return read_jsonl(path)
        found = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as {path.suffix or 'JSON'}: {error}") from error
    return harmful.from_columns(found) if isinstance(found, dict) else found


def _hexphi_folder(entry: dict[str, Any]) -> Path:
    """HEx-PHI's files in the hub's cache. load_dataset would take each file's first prompt for a header."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    patterns = list(harmful.HEXPHI_FILES)
    try:
        path = snapshot_download(
            entry["id"], repo_type="dataset", revision=entry.get("revision"), allow_patterns=patterns
        )
    except (HfHubHTTPError, OSError) as error:
        raise UserError(
            f"cannot load {entry['id']} from the hub ({type(error).__name__}): "
            "accept its licence on the hub and set HF_TOKEN"
        ) from error
    return Path(path)


def _from_hub(name: str, split: str, entry: dict[str, Any]) -> list[dict[str, Any]]:
    if "id" not in entry:
        raise UserError(
            f"{name} has no hub id: set ++data.datasets.{name}.id=OWNER/NAME, or use data=local data.root=DIR"
        )
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            "data=hub needs the package 'datasets': run `make setup`, or use data=bundled"
        ) from error
    if name == "hexphi":
        return harmful.hexphi_rows(_hexphi_folder(entry))
    where = f"{entry['id']}@{entry.get('revision', 'main')}"
    try:
        loaded = datasets.load_dataset(
            entry["id"],
            entry.get("config"),
            split=entry.get("split", HUB_SPLIT.get((name, split), split)),
            revision=entry.get("revision"),
        )
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        first = (str(error).splitlines() or [""])[0]
        remedy = (
            "accept its licence on the hub and set HF_TOKEN"
            if entry.get("gated")
            else "check the network, id and revision"
        )
        raise UserError(
            f"cannot load {where} from the hub ({type(error).__name__}: {first}): {remedy}"
        ) from error
    return [dict(row) for row in loaded]


def rows(name: str, split: str, source: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All rows of the data set's split ("train", "test"; for guard also "calibration")."""
    path, entry = path_of(name, split, source), settings(name, source)
    found = read(path) if path else _from_hub(name, split, entry)
    if name == "pubmedqa" and path is None:  # the hub's rows are not split yet
        found = pubmedqa.split(found, split, pubmedqa.test_ids(entry.get("test_ids")))
    if name == "harmbench":
        found = [row for row in found if row.get("FunctionalCategory", HARMBENCH_KIND) == HARMBENCH_KIND]
    if not found:
        raise UserError(f"{name} ({split}) has no rows in {path or entry.get('id')}")
    return found


def fingerprint(name: str, split: str, source: Mapping[str, Any]) -> str:
    """What the split's content depends on: a hash of its file, or the hub's id, config and revision."""
    path, entry = path_of(name, split, source), settings(name, source)
    if path:
        files = [path / f for f in harmful.HEXPHI_FILES] if path.is_dir() else [path]
        return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    known = {key: entry.get(key) for key in ("id", "config", "revision", "split", "test_ids")}
    if name == "pubmedqa":
        known["test_ids"] = hashlib.sha256(
            repr(sorted(pubmedqa.test_ids(entry.get("test_ids")))).encode()
        ).hexdigest()
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
