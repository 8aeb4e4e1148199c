"""No foreign code is run, no secret is written down, and nothing a model or a file says steers what shows it."""

from __future__ import annotations

import ast
import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from rich.console import Console

from pipeline import store as store_module
from pipeline.run import Runner, StageError
from pipeline.store import Step, Store
from pipeline.tracking import Tracker
from safemerge.screening import hidden, visible
from tests.fake_stage import install
from tests.planning import experiment

ROOT = Path(__file__).resolve().parents[2]
FILES = [
    path
    for room in ("safemerge", "data", "evaluation", "pipeline")
    for path in sorted((ROOT / room).rglob("*.py"))
]
SECRET = "hf_PlantedToken0123456789"
#: Modules that run what a file says, and calls that hand text to a shell or the interpreter.
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {"eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"}


def calls(path: Path) -> list[tuple[str, dict[str, ast.expr], int]]:
    """(name, keyword arguments, line) of every call in a file."""
    tree = ast.parse(path.read_text())
    return [
        (ast.unparse(node.func), {k.arg or "**": k.value for k in node.keywords}, node.lineno)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    ]


def test_nothing_is_unpickled_and_no_text_is_run() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
                assert not {name.split(".")[0] for name in names} & UNSAFE_MODULES, f"{path}:{node.lineno}"
        for name, keywords, line in calls(path):
            assert name not in UNSAFE_CALLS, f"{path}:{line}"
            shell = keywords.get("shell")
            assert shell is None or ast.unparse(shell) == "False", f"{path}:{line}"
            if name == "torch.load":
                assert ast.unparse(keywords["weights_only"]) == "True", f"{path}:{line}"
            if name.endswith(("np.load", "numpy.load")):
                assert ast.unparse(keywords["allow_pickle"]) == "False", f"{path}:{line}"


def test_no_code_of_a_model_is_run() -> None:
    """transformers, vLLM and datasets run none unless they are told to; nothing here tells them."""
    for path in [*FILES, *(ROOT / "conf").rglob("*.yaml")]:
        found = re.findall(r"trust_remote_code\W+(\w+)", path.read_text())
        assert not [value for value in found if value.lower() == "true"], path


def test_every_setting_is_read_as_data() -> None:
    """The configs hold no tags, by which YAML would make objects."""
    for path in (ROOT / "conf").rglob("*.yaml"):
        yaml.safe_load(path.read_text())


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("HF_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY", "MY_API_KEY"):
        monkeypatch.setenv(name, SECRET)
    return SECRET


def test_a_planted_token_is_in_no_file_and_in_nothing_said(
    planted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One stage succeeds, one prints the token as a library might and fails with it."""
    monkeypatch.setenv("PYTHONPATH", install(tmp_path))
    monkeypatch.setitem(store_module.VERSIONS, "fake_stage", 1)
    monkeypatch.setattr("pipeline.run.cuda_capability", lambda: None)
    outputs = tmp_path / "outputs"
    console = Console(file=io.StringIO(), width=200)
    with Runner(Store(outputs / "store"), console, folder=outputs / "runs" / "x") as runner:
        runner.ensure("fine", [Step("fake_stage", "one", {"do": "one"})])
        with pytest.raises(StageError) as error:
            runner.ensure("fails", [Step("fake_stage", "secret", {"do": "secret"})])
    files = [path for path in outputs.rglob("*") if path.is_file()]
    assert {"manifest.json", "log.txt", "uses.json"} <= {path.name for path in files}
    assert not [path for path in files if planted.encode() in path.read_bytes()]
    assert any(b"log in with ***" in path.read_bytes() for path in files), "the stage did print it"
    assert planted not in console.file.getvalue() + str(error.value)  # type: ignore[attr-defined]


def test_the_tracker_gets_no_token(planted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb
    from hydra import initialize_config_dir

    given: list[Any] = []

    def init(**settings: Any) -> Any:
        given.append(settings)
        raise RuntimeError(f"could not log in with {planted} \x1b[2J")

    monkeypatch.setattr(wandb, "init", init)
    console = Console(file=io.StringIO(), width=200)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        x = experiment("tracking.backend=wandb")
    tracker = Tracker(x.config, "name", console)
    tracker.report([SimpleNamespace()], [])  # type: ignore[list-item]
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert given and planted not in str(given)
    assert "tracking off: RuntimeError: could not log in with ***" in said and planted not in said
    assert "\x1b" not in said


def test_what_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("DB_PASSWORD", f"{SECRET}-longer")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    assert hidden(f"a {SECRET}-longer b {SECRET} false") == "a *** b *** false"
    assert hidden("given sk-0123456", "sk-0123456") == "given ***"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("a\rb\x08c\x7f", "a\\x0db\\x08c\\x7f"),
        ("\x9b31m", "\\x9b31m"),
        ("safe\u202eefasnu", "safe\\x202eefasnu"),
        ("plain é 安全 ✓\n\tx", "plain é 安全 ✓\n\tx"),
    ],
)
def test_what_steers_a_terminal_is_spelt_out(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_names_from_a_file_steer_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    from safemerge.display import show_rows
    from safemerge.table import ModuleRow

    show_rows([ModuleRow("m[red]\x1b[2J[/nope].q_proj", 0, "q_proj", 0.5, 1.0, 1.0, 1.0)])
    out = capsys.readouterr().out
    assert "\x1b[2J" not in out and "m[red]\\x1b[2J[/nope].q_proj" in out
