"""Adapters, models and files of ours that are none, in tables: refused in a line that names them, and nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from data.schema import Verdict, read_jsonl, read_rows
from evaluation.run_file import read_run
from pipeline import plan, preflight
from pipeline.config import check
from pipeline.content import folder_digest
from pipeline.store import Store
from tests.refusal import refused

ROOT = Path(__file__).resolve().parents[2]
NAN, INF = float("nan"), float("inf")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, so that anything written shows."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def composed() -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", ["model=tiny", "judge=[guard,refusal]"])


def _adapter(folder: Path, config: Any = None, weights: bytes | None = b"x") -> Path:
    folder.mkdir()
    if config is not None:
        content = config if isinstance(config, bytes) else json.dumps(config).encode()
        (folder / "adapter_config.json").write_bytes(content)
    if weights is not None:
        (folder / "adapter_model.safetensors").write_bytes(weights)
    return folder


LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
ADAPTERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "empty folder": (lambda at: _adapter(at, None, None), "adapter_config.json is missing"),
    "a file": (lambda at: (at.write_text("x"), at)[1], "adapter_config.json is missing"),
    "nowhere": (lambda at: at, "adapter_config.json is missing"),
    "a loop": (lambda at: (at.symlink_to(at), at)[1], "adapter_config.json is missing"),
    "config cut": (lambda at: _adapter(at, b'{"peft_type": "LO'), "cannot read"),
    "config not UTF-8": (lambda at: _adapter(at, b'{"peft_type": "\xe9"}'), "cannot read"),
    "config too deep": (lambda at: _adapter(at, b"[" * 100_000), "cannot read"),
    "config a list": (lambda at: _adapter(at, [1]), "not a list"),
    "another kind": (lambda at: _adapter(at, {"peft_type": "LOKR"}), "is a LOKR adapter"),
    "steering kind": (lambda at: _adapter(at, {"peft_type": "\x1b[2JX"}), "\\x1b[2JX"),
    "no weights": (lambda at: _adapter(at, LORA, None), "no adapter_model.safetensors"),
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_adapters_that_are_given(
    kind: str, composed: DictConfig, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, words = ADAPTERS[kind]
    folder = make(here / "adapter")
    config = OmegaConf.merge(composed, {"task_adapter": str(folder)})
    assert isinstance(config, DictConfig)
    refused(lambda: plan.build(check(config)), capsys, str(folder), words)


def test_a_rank_that_is_none_is_refused_before_training(
    composed: DictConfig, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for rank in ("eight", None, [8]):
        folder = _adapter(here / f"adapter-{rank!r}", {**LORA, "r": rank})
        config = OmegaConf.merge(composed, {"task_adapter": str(folder)})
        assert isinstance(config, DictConfig)
        refused(lambda c=config: preflight.require(plan.build(check(c)), Store(here)), capsys, " r=")  # type: ignore[misc]


LOADED: dict[str, tuple[Callable[[Path], Any], str]] = {}


def loaded(words: str) -> Callable[[Callable[[Path], Any]], None]:
    def add(make: Callable[[Path], Any]) -> None:
        LOADED[make.__name__.strip("_").replace("_", " ")] = make, words

    return add


def _lora(at: Path, **options: Any) -> Path:
    from tests.pico import modules, write_lora

    return write_lora(at / "lora", shapes=modules(("self_attn.q_proj",), 1), **options)


Q = "model.layers.0.self_attn.q_proj"


def _with(at: Path, side: str, change: Callable[[Any], Any]) -> Path:
    from safetensors.torch import load_file, save_file

    folder = _lora(at)
    path = folder / "adapter_model.safetensors"
    tensors = dict(load_file(path))
    key = f"base_model.model.{Q}.lora_{side}.weight"
    tensors[key] = change(tensors[key])
    save_file({k: v for k, v in tensors.items() if v is not None}, path)
    return folder


@loaded("NaN or infinite")
def _nan_weights(at: Path) -> Path:
    return _with(at, "A", lambda tensor: tensor * NAN)


@loaded("NaN or infinite")
def _infinite_weights(at: Path) -> Path:
    return _with(at, "B", lambda tensor: tensor + INF)


@loaded("lora_A only")
def _half_a_module(at: Path) -> Path:
    return _with(at, "B", lambda tensor: None)


@loaded("do not fit")
def _shapes_that_do_not_fit(at: Path) -> Path:
    return _with(at, "B", lambda tensor: tensor[:, :2].contiguous())


@loaded("dtypes")
def _integer_weights(at: Path) -> Path:
    return _with(at, "A", lambda tensor: tensor.int())


@loaded("is the file complete?")
def _weights_that_are_cut(at: Path) -> Path:
    folder = _lora(at)
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return folder


@loaded("is the file complete?")
def _weights_that_are_none(at: Path) -> Path:
    folder = _lora(at)
    (folder / "adapter_model.safetensors").write_bytes(b"\xff" * 64)
    return folder


@loaded("safely")
def _a_pickle_that_runs_code(at: Path) -> Path:
    import pickle

    folder = _lora(at)
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Runs(str(at / "it-ran")), protocol=2))
    return folder


class Runs:
    """Its unpickling makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


@pytest.mark.parametrize("kind", LOADED)
def test_adapters_that_are_read(kind: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safemerge.adapters import load_adapter

    make, words = LOADED[kind]
    folder = make(here)
    before = sorted(here.rglob("*"))
    refused(lambda: load_adapter(folder), capsys, str(here), words)
    assert sorted(here.rglob("*")) == before, "nothing written, and no code of the file has run"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "no model in"),
        ({"README.md": b"x"}, "no model in"),
    ],
)
def test_models_that_are_given(
    files: dict[str, bytes], words: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "model").mkdir()
    for name, content in files.items():
        (here / "model" / name).write_bytes(content)
    refused(lambda: folder_digest(here / "model"), capsys, str(here / "model"), words)


def test_loops_of_links_in_a_model_folder_end(here: Path) -> None:
    (here / "config.json").write_text("{}")
    before = folder_digest(here)
    (here / "loop.json").symlink_to(here / "loop.json")
    (here / "again").symlink_to(here, target_is_directory=True)
    assert folder_digest(here) == before


CHECKPOINTS: list[tuple[str, bytes, str]] = [
    ("config.json", b"{", "cannot read"),
    ("config.json", b"[1]", "JSON object"),
    ("config.json", b'{"a": "\xe9"}', "cannot read"),
    ("model.safetensors", b"", "is the file complete?"),
    ("model.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{}", "is the file complete?"),
    ("model.safetensors", b"PK\x03\x04" + b"\0" * 60, "is the file complete?"),
    ("pytorch_model.bin", b"not a pickle", "safely"),
    ("nothing.txt", b"", "is it a model folder?"),
]


@pytest.mark.parametrize(("name", "content", "words"), CHECKPOINTS)
def test_checkpoints(
    name: str, content: bytes, words: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safemerge.checkpoints import Checkpoint

    (here / name).write_bytes(content)
    refused(lambda: Checkpoint(here).find(Q), capsys, str(here), words)


ARTIFACTS: list[tuple[bytes, str]] = [
    (b'{"id": "a", "verdict": "safe"', "line 1 is not JSON"),
    (b'{"id": "a"}', "row 1 is no Verdict"),
    (b'{"id": "a", "verdict": "safe", "more": 1}', "row 1 is no Verdict"),
    (b"3\n", "row 1 is no Verdict"),
    (b"\xff\xfe", "not UTF-8"),
]


@pytest.mark.parametrize(("content", "words"), ARTIFACTS)
def test_rows_in_the_store(
    content: bytes, words: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = here / "rows.jsonl"
    path.write_bytes(content)
    refused(lambda: read_rows(path, Verdict), capsys, str(path), words)
    refused(lambda: read_jsonl(here / "none"), capsys, "none", "run the stage")


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"run": 3}', b"\xff", b""])
def test_run_files(content: bytes, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = here / "run.json"
    path.write_bytes(content)
    refused(lambda: read_run(path), capsys, str(path), "make report")
