"""A user's slips, through the real command line: exit code 2, one line naming what is valid, nothing written."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from pipeline import mistakes
from pipeline.__main__ import guarded, run
from pipeline.config import check
from safemerge.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, so that anything written shows."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


CASES = {
    "model=nope": ("model=nope", "llama3.1-8b", "tiny"),
    "task=gsm8": ("task=gsm8", "gsm8k", "pubmedqa"),
    "judge=[bogus]": ("judge=bogus", "llama_guard_3_8b", "refusal"),
    "method=[aligned,safemerg]": ("method=safemerg", "safemerge", "safelora"),
    "experiment=none_such": ("experiment=none_such", "controls"),
    "sead=1": ("sead", "did you mean seed?"),
    "train.lora.rank=4": ("train.lora.rank", "lora_alpha"),
    "method.safemerge.tua=0.5": ("method.safemerge.tua", "did you mean tau?"),
    "generation.max_token=3": ("generation.max_token", "max_tokens"),
    "+selection.keep=0.5": ("selection.keep", "keep_gain"),
    "+train.lora.rank=4": ("train.lora.rank", "lora_alpha"),
    "train.lora.r=0": ("train.lora.r=0", "greater than or equal to 1"),
    "seed=abc": ("seed='abc'", "integer"),
    "seed=-1": ("seed=-1", "greater than or equal to 0"),
    "stages=[prepare,marge]": ("stages.1='marge'", "'merge'"),
    "generation.backend=vlm": ("generation.backend='vlm'", "'vllm'", "'transformers'"),
    "method.safemerge.alpha=1.5": ("alpha=1.5", "[0, 1]"),
    "method.safemerge.tau=q2": ("tau=q2", "[0, 1]"),
    "method.safemerge.combine=exakt": ("combine=exakt", "peft_linear"),
    "+method.safemerge.taus=0.5": ("method.safemerge.taus", "tau"),
    "judge.guard.threshold=2": ("judge.guard.threshold=2", "between 0 and 1"),
    "data=local": ("data.root", "data.root=DIR"),
    "task_adapter=/nowhere": ("task_adapter=/nowhere", "adapter_config.json"),
    "+train.task.args.learning_rat=1": ("train.task.args.learning_rat", "learning_rate"),
    "train=paper": ("judge=guard", "train=small"),
    "model=[": ("model=[", "Hydra"),
    "data.root=/tmp/a{b}": ("data.root=/tmp/a{b}", """'data.root="/tmp/a{b}"'"""),
    "task_adapter=/tmp/r=8": ("task_adapter=/tmp/r=8", """'task_adapter="/tmp/r=8"'"""),
    "task_adapter=/tmp/it's": ("task_adapter=/tmp/it's", "quote the value"),
    "store=/a(b)": ("store=/a(b)", """'store="/a(b)"'"""),
}


@pytest.mark.parametrize("argument", CASES)
def test_a_slip_is_one_line_that_names_the_remedy(
    argument: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = [] if argument.startswith("model=") else ["model=tiny", "judge=[guard,refusal]"]
    if argument == "train=paper":  # the guard judge needs a guard section
        first = ["model=smollm2-135m-hub", "judge=[guard,refusal]"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        code = guarded(lambda: run(check(compose("config", [*first, argument]))))
    said = capsys.readouterr()
    assert code == 2
    assert said.out == ""
    assert len(said.err.strip().splitlines()) == 1, said.err
    assert said.err.startswith("error: ") and "Traceback" not in said.err
    for word in CASES[argument]:
        assert word in said.err
    assert not list(here.iterdir())


def test_the_quoting_that_is_shown_is_what_hydra_takes() -> None:
    for path in ("/a{b}", "/r=8,alpha=16", "/it's", '/say "x"', "/a(b)c", "/back\\slash={1}"):
        with pytest.raises(HydraException) as error:
            OverridesParser.create().parse_overrides([f"data.root={path}"])
        shown = shlex.split(mistakes.one_line(error.value).partition("quote the value: ")[2])
        assert len(shown) == 1
        assert OverridesParser.create().parse_override(shown[0]).value() == path


def command(*arguments: str, cwd: Path) -> tuple[int, str, str, float]:
    """Exit code, stdout, stderr and processor seconds of `python -m pipeline`, without GPU, token or network."""
    hidden = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY")
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    environment |= {
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(cwd / "no-cache"),
        "PATH": str(Path(sys.executable).parent) + ":/usr/bin:/bin",
        "CUDA_VISIBLE_DEVICES": "",
        "COLUMNS": "200",
    }
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return done.returncode, done.stdout, done.stderr, used


def test_the_command_itself(here: Path) -> None:
    code, out, err, _ = command("model=tiny", "sead=1", cwd=here)
    assert (code, out) == (2, "")
    assert err.strip().count("\n") == 0 and "did you mean seed?" in err
    assert not list(here.iterdir())


def test_a_model_too_large_for_this_machine_is_refused_at_once(here: Path) -> None:
    """One line with all that is missing, soon (processor time: the cores may be shared), nothing fetched or written."""
    start = time.monotonic()
    code, out, err, used = command("model=llama3.1-8b", cwd=here)
    assert code == 2
    assert out == "" and err.strip().count("\n") == 0
    for word in ("llama3.1-8b cannot run here", "HF_TOKEN", "network", "make plan"):
        assert word in err
    assert used < 10 and time.monotonic() - start < 120
    assert not list(here.iterdir())


@pytest.mark.parametrize("error", [UserError("two\n  lines"), ValueError("a\n\nb")])
def test_any_message_becomes_one_line(error: Exception) -> None:
    assert "\n" not in mistakes.one_line(error)


def test_other_errors_are_not_hidden() -> None:
    def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        guarded(broken)


def test_an_interrupt_says_that_work_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    assert guarded(interrupted) == 130
    assert "rerun the same command to resume" in capsys.readouterr().err
