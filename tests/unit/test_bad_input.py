"""Bad input of every kind, in a table: exit code 2, one line with the value and the remedy, nothing half-written.

Data files have their own table, in `test_data_files`, and slips on the command line theirs, in `test_mistakes`.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from data.schema import Completion, Verdict, read_jsonl, read_rows, write_jsonl
from evaluation.guard_format import parse_verdict
from evaluation.run_file import read_run
from evaluation.server_judge import judge_with_server
from pipeline import plan, preflight
from pipeline.__main__ import guarded
from pipeline.config import check
from pipeline.content import folder_digest
from pipeline.store import Store

ROOT = Path(__file__).resolve().parents[2]
NAN, INF = float("nan"), float("inf")
SERVER = {
    "kind": "api",
    "_target_": "evaluation.server_judge.judge_with_server",
    "id": "m",
    "base_url": "http://127.0.0.1:1/v1",
    "api_key_env": "KEY",
    "attempts": 1,
    "parallel": 1,
    "timeout_s": 1.0,
    "price": [0.0, 0.0],
    "max_tokens": 8,
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(call: Callable[[], Any], capsys: pytest.CaptureFixture[str], *words: str) -> None:
    """Exit 2, and one line on stderr that holds these words."""
    capsys.readouterr()
    assert guarded(call) == 2
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.strip().splitlines()) == 1, said.err
    assert said.err.startswith("error: ") and "Traceback" not in said.err and "\x1b" not in said.err
    for word in words:
        assert word in said.err, said.err


@pytest.fixture(scope="module")
def composed() -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", ["model=tiny", "judge=[guard,refusal]"])


#: setting -> value -> a word of the line besides the setting's name
SETTINGS: list[tuple[str, Any, str]] = [
    ("seed", 1.5, "1.5"),
    ("seed", None, "integer"),
    ("seed", True, "integer"),
    ("seed", -1, "0"),
    ("seed", 2**31, "less than"),
    ("stages", [], "at least 1"),
    ("stages", "prepare", "list"),
    ("stages", ["prepare", 3], "stages.1=3"),
    ("dry_run", "perhaps", "bool"),
    ("store", "", "at least 1"),
    ("store", None, "string"),
    ("runs", 3, "string"),
    ("task_adapter", 3, "string"),
    ("model.name", "../../x", "pattern"),
    ("model.name", "a/b", "pattern"),
    ("model.name", "", "pattern"),
    ("model.name", ".hidden", "pattern"),
    ("model.name", "a\x1b[2J", "pattern"),
    ("model.name", "n" * 101, "100"),
    ("task.name", "..", "pattern"),
    ("task.name", "/abs", "pattern"),
    ("task.name", "a\nb", "pattern"),
    ("task.dataset", "directharm", "training rows"),
    ("task.dataset", "nope", "gsm8k"),
    ("model.parameters", 0, "greater than 0"),
    ("model.parameters", NAN, "finite"),
    ("model.system_prompt", 3, "string"),
    ("model.base.kind", "nope", "no such kind"),
    ("model.base.hidden_size", 0, "greater than 0"),
    ("model.base.hidden_size", "wide", "integer"),
    ("model.base.vocab_size", 10, "300"),
    ("model.base.learning_rate", INF, "finite"),
    ("model.base", {"kind": "local", "path": "/nowhere"}, "/nowhere"),
    ("model.base", {"kind": "local", "path": "."}, "no model in"),
    ("model.base", {"kind": "local"}, "model.base.path is missing"),
    ("model.base", 3, "model.base"),
    ("train.dtype", "float8", "'bfloat16'"),
    ("train.devices", 0, "greater than 0"),
    ("train.devices", 3, "evenly"),
    ("train.role_seeds", "both", "'shared'"),
    ("train.lora.r", "abc", "integer"),
    ("train.lora.r", 2.5, "integer"),
    ("train.lora.r", True, "integer"),
    ("train.lora.r", 4096, "1024"),
    ("train.lora.lora_alpha", 0, "greater than 0"),
    ("train.lora.lora_alpha", INF, "finite"),
    ("train.lora.lora_alpha", NAN, "finite"),
    ("train.lora.lora_dropout", 1.0, "less than 1"),
    ("train.lora.lora_dropout", NAN, "finite"),
    ("train.lora.target_modules", [], "target_modules"),
    ("train.lora.target_modules", [1], "target_modules"),
    ("train.lora.target_modules", "", "target_modules"),
    ("train.lora.use_rslora", "maybe", "bool"),
    ("train.args.learning_rate", "abc", "above 0"),
    ("train.args.learning_rate", -1, "above 0"),
    ("train.args.learning_rate", NAN, "finite"),
    ("train.args.num_train_epochs", 0, "above 0"),
    ("train.args.per_device_train_batch_size", 0, "whole number"),
    ("train.args.per_device_train_batch_size", "8", "whole number"),
    ("train.args.gradient_accumulation_steps", 1.5, "whole number"),
    ("train.args.max_length", None, "whole number"),
    ("train.args.output_dir", "/etc", "leave it out"),
    ("train.args.report_to", "wandb", "leave it out"),
    ("train.args.bf16", True, "train.dtype"),
    ("train.task.args", {"learning_rate": -1.0}, "train.task.args.learning_rate=-1.0"),
    ("train.task.limit", 0, "greater than 0"),
    ("train.task.limit", "all", "integer"),
    ("train.task.nope", 1, "no such setting"),
    ("generation.temperature", -1, "0"),
    ("generation.temperature", INF, "finite"),
    ("generation.temperature", "hot", "number"),
    ("generation.top_p", 0, "greater than 0"),
    ("generation.top_p", 0.5, "changes nothing at temperature 0"),
    ("generation.dtype", "int8", "'auto'"),
    ("generation.backend", "llama.cpp", "'vllm'"),
    ("generation.max_num_seqs", 0, "greater than 0"),
    ("generation.gpu_memory_utilization", 2, "1"),
    ("generation.max_tokens", {"gsm8k": 8}, "default is missing"),
    ("generation.max_tokens.default", 0, "greater than 0"),
    ("generation.max_tokens.nope", 8, "no such benchmark"),
    ("data.source", "web", "'bundled'"),
    ("data.root", "/x", "data=local"),
    ("data.limits.items.gsm8k", 0, "greater than 0"),
    ("data.limits.items.gsm8k", "many", "integer"),
    ("data.limits.items.nope", 1, "no such data set"),
    ("data.datasets.nope", {"file": "x"}, "no such data set"),
    ("data.datasets.gsm8k", 3, "data.datasets.gsm8k"),
    ("data.datasets.gsm8k", {"file": "x"}, "not read with data=bundled"),
    ("data.datasets.gsm8k", {"target": "os.path"}, "not a Dataset"),
    ("data.datasets.gsm8k", {"target": "nowhere.X"}, "names nothing"),
    ("benchmark.gsm8k.role", "fun", "'utility'"),
    ("benchmark.gsm8k._target_", "os.nope", "names no function"),
    ("benchmark.gsm8k._target_", "os.getcwd", "cannot be called"),
    ("benchmark.gsm8k.dataset", "safety", "test items"),
    ("benchmark", {}, "utility"),
    ("judge", {}, "refusal phrases"),
    ("judge.refusal._target_", "nope", "names no function"),
    ("judge.guard.threshold", NAN, "between 0 and 1"),
    ("judge.guard.max_tokens", 0, "greater than 0"),
    ("judge.x", {"kind": "nope"}, "no such kind"),
    ("judge.x", {**SERVER, "base_url": "nope"}, "address of a server"),
    ("judge.x", {**SERVER, "base_url": "file:///etc/passwd"}, "address of a server"),
    ("judge.x", {**SERVER, "base_url": "http://me:hunter22@host/v1"}, "no password"),
    ("judge.x", {**SERVER, "api_key_env": "sk-abcdef0123"}, "api_key_env=..."),
    ("judge.x", {**SERVER, "timeout_s": NAN}, "finite"),
    ("judge.x", {**SERVER, "attempts": 0}, "greater than 0"),
    ("judge.x", {**SERVER, "price": [0.0]}, "price"),
    ("method", {}, "at least 1"),
    ("method.x", {"_target_": "os.getcwd"}, "method.x"),
    ("method.safemerge.tau", NAN, "tau"),
    ("method.safemerge.alpha", NAN, "alpha"),
    ("method.safemerge.alpha", -0.1, "[0, 1]"),
    ("method.safemerge.tau", "low", "tau"),
    ("selection.keep_gain", NAN, "finite"),
    ("selection.keep_gain", 2, "1"),
    ("selection.harm", "gsm8k", "harm benchmark"),
    ("selection.grid", "some", "'dev'"),
    ("likelihood.prompts", 0, "greater than 0"),
    ("tracking.backend", "mlflow", "'wandb'"),
    ("tracking.mode", "sometimes", "'auto'"),
    ("tracking.project", "", "at least 1"),
]


@pytest.mark.parametrize(("key", "value", "word"), SETTINGS)
def test_settings(
    key: str, value: Any, word: str, composed: DictConfig, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = copy.deepcopy(composed)
    OmegaConf.set_struct(config, False)
    OmegaConf.update(config, key, value, merge=False)
    shown = key.rpartition(".")[2] if key != "model.base" else "model"
    refused(lambda: plan.build(check(config)), capsys, shown, word)
    assert not list(here.iterdir())


def test_a_secret_in_the_wrong_place_is_not_shown(
    composed: DictConfig, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for changes in ({"base_url": "http://me:hunter22@host/v1"}, {"api_key_env": "sk-hunter22"}):
        config = copy.deepcopy(composed)
        OmegaConf.set_struct(config, False)
        config.judge.x = {**SERVER, **changes}
        assert guarded(lambda config=config: check(config)) == 2  # type: ignore[misc]
        assert "hunter22" not in capsys.readouterr().err


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
    "config cut": (lambda at: _adapter(at, b'{"peft_type": "LO'), "cannot be read"),
    "config not UTF-8": (lambda at: _adapter(at, b'{"peft_type": "\xe9"}'), "cannot be read"),
    "config too deep": (lambda at: _adapter(at, b"[" * 100_000), "cannot be read"),
    "config a list": (lambda at: _adapter(at, [1]), "declares list"),
    "another kind": (lambda at: _adapter(at, {"peft_type": "LOKR"}), "declares LOKR"),
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
        refused(lambda c=config: preflight.require(plan.build(check(c)), Store(here)), capsys, "rank r")  # type: ignore[misc]


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


#: What a server sends -> the verdict
ANSWERS: dict[str, tuple[str, bytes, str]] = {
    "a page": ("text/html", b"<html>SAFE</html>", "invalid"),
    "a list": ("application/json", b"[1, 2]", "invalid"),
    "a number": ("application/json", b"3", "invalid"),
    "nothing": ("application/json", b"", "invalid"),
    "cut": ("application/json", b'{"choices": [{"message":', "invalid"),
    "no choices": ("application/json", b'{"choices": []}', "invalid"),
    "null choices": ("application/json", b'{"choices": null}', "invalid"),
    "null content": ("application/json", b'{"choices": [{"message": {"content": null}}]}', "invalid"),
    "a list of safe": ("application/json", b'{"choices": [{"message": {"content": ["safe"]}}]}', "invalid"),
    "not UTF-8": ("application/json", b'{"choices": [{"message": {"content": "\xff"}}]}', "invalid"),
    "both words": (
        "application/json",
        b'{"choices": [{"message": {"content": "SAFE or UNSAFE"}}]}',
        "invalid",
    ),
    "an essay": (
        "application/json",
        b'{"choices": [{"message": {"content": "I think it is safe."}}]}',
        "invalid",
    ),
    "steering": (
        "application/json",
        b'{"choices": [{"message": {"content": "\\u001b[2J SAFE x"}}]}',
        "invalid",
    ),
    "half a character": (
        "application/json",
        b'{"choices": [{"message": {"content": "\\ud800 SAFE"}}]}',
        "safe",
    ),
    "rubbish counts": (
        "application/json",
        b'{"choices": [{"message": {"content": "Unsafe."}}], "usage": {"prompt_tokens": "many"}}',
        "unsafe",
    ),
    "a megabyte": (
        "application/json",
        json.dumps({"choices": [{"message": {"content": "safe " * 200_000}}]}).encode(),
        "invalid",
    ),
}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Answers with what the model's name says."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            kind, body, _ = ANSWERS[asked["model"]]
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}/v1"
    served.shutdown()


@pytest.mark.parametrize("kind", ANSWERS)
def test_what_a_server_may_answer(kind: str, server: str, tmp_path: Path) -> None:
    """Garbage is an invalid verdict with its reason, never safe, and never the end of a run."""
    rows = [Completion("a", "p", "reply"), Completion("b", "p", "other")]
    found, usage = judge_with_server(rows, base_url=server, model=kind, attempts=1, timeout_s=10)
    assert [row.verdict for row in found] == [ANSWERS[kind][2]] * 2
    assert all(len(row.raw) <= 500 for row in found) and usage.requests >= 2
    write_jsonl(tmp_path / "verdicts.jsonl", found)
    assert read_rows(tmp_path / "verdicts.jsonl", Verdict) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "Safe",
        "safe.",
        "safety",
        "SAFE",
        "safe unsafe",
        "unsafely",
        "\x1b[2Jsafe",
        "sa\0fe",
        "安全",
        "s" * 10**6,
    ],
)
def test_what_a_guard_may_answer(text: str) -> None:
    assert parse_verdict(text) == ("invalid", None)
    assert parse_verdict(text, 0.01, 0.5)[0] == "invalid"


def test_there_are_enough_cases() -> None:
    """The promise is a hundred; data files and the command line come on top."""
    assert len(SETTINGS) + len(ADAPTERS) + len(LOADED) + len(CHECKPOINTS) + len(ANSWERS) >= 150
