"""Full fine-tunes on the command line, and what is refused in one line."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from safemerge import read_table
from safemerge.cli import main
from tests.pico import write_lora
from tests.unit.full_pair import Pair, change, make_pair, weights

UP = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("full"))


def command(pair: Pair, *options: object, name: str = "repair", task: Path | None = None) -> int:
    """With the options given last, which count."""
    sources = ["--base", pair.base, "--aligned", pair.aligned, "--task-model", task or pair.task]
    return main([name, *map(str, [*sources, *options])])


def test_repair_and_inspect(pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, table = tmp_path / "out", tmp_path / "rho.csv"
    assert command(pair, "--safety-model", pair.safety, "--tau", "q0.5", "--output", out) == 0
    said = capsys.readouterr()
    assert "repaired 7 of 14 modules\n" in said.out
    assert f"model: {out}" in said.out
    assert said.err == ""
    assert command(pair, "--tau", "q0.5", "--output", table, name="inspect") == 0
    assert "7 of 14" in capsys.readouterr().out
    assert read_table(table) == read_table(out / "similarity.csv")


def test_no_method_of_the_command_needs_a_lora_but_the_ones_that_say_so(pair: Pair, tmp_path: Path) -> None:
    for method in ("full", "scale", "resta", "random", "highest", "safelora"):
        options = ["--method", method, "--safety-model", pair.safety, "--output", tmp_path / method]
        assert command(pair, *options) == 0
        assert weights(tmp_path / method).keys() == weights(pair.task).keys()


def refused(capsys: pytest.CaptureFixture[str], code: int, *words: object) -> None:
    error = capsys.readouterr().err
    assert code == 2
    assert error.startswith("safemerge: ")
    assert error.count("\n") == 1
    for word in words:
        assert str(word) in error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--combine", "peft_linear"], ["combine=peft_linear", "use combine=exact"]),
        (["--combine", "ties", "--density", "0.5"], ["combine=ties", "use combine=exact"]),
        (["--rank", "4"], ["rank=4", "leave it out"]),
        (["--dtype", "float32"], ["dtype=float32", "leave out"]),
        (["--export-model", "x"], ["--export-model x"]),
        (["--device", "gpu7"], ["cannot use device gpu7"]),
        (["--tau", "q7"], ["tau=q7"]),
    ],
)
def test_settings_that_need_a_lora(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: list[str]
) -> None:
    code = command(pair, "--safety-model", pair.safety, "--output", tmp_path / "out", *options)
    refused(capsys, code, *words)
    assert list(tmp_path.iterdir()) == []


def _config(change: dict[str, object]) -> Callable[[Pair, Path], Path]:
    def make(pair: Pair, folder: Path) -> Path:
        shutil.copytree(pair.task, folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        return folder

    return make


def _unrelated(pair: Pair, folder: Path) -> Path:
    generator = torch.Generator().manual_seed(9)
    tensors = {
        name: tensor.std() * torch.randn(tensor.shape, generator=generator)
        for name, tensor in weights(pair.task).items()
    }
    return change(pair.task, folder, **tensors)


def _of_base(pair: Pair, folder: Path) -> Path:
    base = load_file(pair.base / "model.safetensors")
    return change(pair.base, folder, **{name: tensor + 1e-4 for name, tensor in base.items()})


def _pickled(pair: Pair, folder: Path) -> Path:
    folder.mkdir()
    torch.save(load_file(pair.task / "model.safetensors"), folder / "pytorch_model.bin")
    return folder


def _outside(pair: Pair, folder: Path) -> Path:
    shutil.copytree(pair.task, folder)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": dict.fromkeys(weights(pair.task), "../task/model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def _quantised(pair: Pair, folder: Path) -> Path:
    """With the config of a quantised model, and one weight stored as such."""
    _config({"quantization_config": {"quant_method": "awq"}})(pair, folder)
    packed = weights(pair.task)
    packed[UP.replace("weight", "qweight")] = packed.pop(UP).to(torch.int32)
    save_file(packed, folder / "model.safetensors")
    return folder


def _with(tensor: torch.Tensor | None) -> Callable[[Pair, Path], Path]:
    return lambda pair, folder: change(pair.task, folder, **{UP: tensor})


WRONG = {
    "the aligned model": (lambda pair, folder: pair.aligned, ["task model", "give the fine-tuned model"]),
    "another model": (_unrelated, ["is no fine-tune of", "--aligned"]),
    "of the base": (_of_base, ["was fine-tuned from", "base, not from"]),
    "a pickle": (_pickled, ["pytorch_model.bin", "save it anew as safetensors"]),
    "a path": (_outside, ["../task/model.safetensors"]),
    "gpt2": (_config({"model_type": "gpt2"}), ["gpt2", "Conv1D"]),
    "quantised": (_quantised, ["awq", UP.replace("weight", "qweight")]),
    "another shape": (_with(torch.zeros(48, 31)), [UP.removesuffix(".weight"), "(48, 31)", "(48, 32)"]),
    "integers": (_with(torch.zeros(48, 32, dtype=torch.int32)), ["int32"]),
    "NaN": (_with(torch.full((48, 32), torch.nan)), [UP.removesuffix(".weight"), "NaN"]),
    "nothing": (lambda pair, folder: folder, ["no folder"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_task_model(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    make, words = WRONG[name]
    task = make(pair, tmp_path / "model")
    code = command(pair, "--safety-model", pair.safety, "--output", tmp_path / "out", task=task)
    refused(capsys, code, *words)
    assert {path.name for path in tmp_path.iterdir()} <= {"model"}


@pytest.mark.parametrize("name", ["the aligned model", "another model", "of the base", "nothing"])
def test_a_wrong_safety_model(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    make, words = WRONG[name]
    safety = make(pair, tmp_path / "model")
    code = command(pair, "--safety-model", safety, "--output", tmp_path / "out")
    refused(capsys, code, *(str(word).replace("task model", "safety model") for word in words))


def test_what_only_shows_while_writing_leaves_nothing(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    last = "model.layers.1.mlp.down_proj.weight"
    safety = change(pair.safety, tmp_path / "nan", **{last: torch.full((32, 48), torch.nan)})
    options = "--tau", "2", "--output", tmp_path / "out"
    refused(capsys, command(pair, "--safety-model", safety, *options), last.removesuffix(".weight"), "NaN")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    refused(capsys, command(pair, "--safety-model", pair.safety, *options), "No space left", "free some")
    assert [path.name for path in tmp_path.iterdir()] == ["nan"]


def test_the_disk_is_looked_at_first(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    monkeypatch.setattr("safemerge.api.similarity_of_model", None)  # not called
    out = tmp_path / "deep" / "out"
    code = command(pair, "--safety-model", pair.safety, "--output", out)
    refused(capsys, code, "GiB", tmp_path, "free some")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("role", ["task", "aligned", "safety"])
def test_an_input_is_never_written_over(pair: Pair, capsys: pytest.CaptureFixture[str], role: str) -> None:
    for output in (getattr(pair, role), pair.task.parent):
        options = "--safety-model", pair.safety, "--output", output, "--overwrite"
        refused(capsys, command(pair, *options), "holds the input", output)
    assert weights(pair.task).keys() == weights(pair.aligned).keys() == weights(pair.safety).keys()


def test_adapters_beside_models(pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A safety LoRA goes with a task model, on the modules that it has; a safety model not with a task LoRA."""
    out = tmp_path / "out"
    lora = ["repair", "--base", pair.base, "--aligned", pair.aligned, "--task-adapter", pair.task_lora]
    refused(
        capsys,
        main([*map(str, [*lora, "--safety-model", pair.safety, "--output", out])]),
        "give a safety adapter",
    )
    refused(capsys, command(pair, "--output", out), "needs --safety-adapter or --safety-model")
    foreign = write_lora(tmp_path / "foreign", alpha=0.05, base=str(pair.base))
    refused(capsys, command(pair, "--safety-adapter", foreign, "--output", out), "trained on", pair.base)
    other = write_lora(tmp_path / "other", shapes={"model.layers.0.mlp.up_proj": (8, 8)})
    refused(capsys, command(pair, "--safety-adapter", other, "--output", out), "(48, 32)", "(8, 8)")
    some = write_lora(tmp_path / "some", alpha=0.05, shapes={"model.layers.0.mlp.up_proj": (48, 32)})
    assert command(pair, "--safety-adapter", some, "--method", "full", "--output", out) == 0
    said = capsys.readouterr()
    assert "repaired 1 of 14 modules" in said.out
    assert said.err.count("selected but not in the safety adapter, kept") == 13
    assert [
        name for name, tensor in weights(out).items() if not torch.equal(tensor, weights(pair.task)[name])
    ] == [UP]


def test_a_tied_head_cannot_be_asked_for(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tied = change(pair.task, tmp_path / "tied", **{"lm_head.weight": None})
    code = command(pair, "--lm-head", name="inspect", task=tied)
    refused(capsys, code, tied, "leave out --lm-head")
