"""Settings that are none, in a table of more than a hundred: refused with their names and values, and nothing written.

Slips on the command line are in `test_mistakes`, data files in `test_data_files`, all else in `test_bad_files`.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from pipeline import plan
from pipeline.__main__ import guarded
from pipeline.config import check
from tests.refusal import refused

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
    """An empty folder to work in, so that anything written shows."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


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


def test_there_are_enough_cases() -> None:
    assert len(SETTINGS) > 100
