"""Which model an adapter was trained on, and where it lies: compared by name, weights and vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from safemerge import Checkpoint, load_adapter
from safemerge.errors import UserError
from safemerge.fit import fitted
from tests.pico import HIDDEN, VOCAB, save_pair, write_lora
from tests.unit.foreign import (
    FakeHub,
    Pair,
    Q,
    copied,
    repaired,
    rewritten,
    vocabulary,
)

CHAT, BASE = "meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(*save_pair(tmp_path_factory.mktemp("pair")))


# What an adapter records, and what comes of it as a task and as a safety adapter for CHAT: a note, or a refusal.
RECORDED = {
    "unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit": ("by its name a copy", None),
    "unsloth/Llama-3.1-8B-Instruct-unsloth-bnb-4bit": ("by its name a copy", None),
    "NousResearch/Meta-Llama-3.1-8B-Instruct": ("by its name a copy", None),
    "meta-llama/Meta-Llama-3.1-8B-Instruct": ("by its name a copy", None),
    "mlx-community/Llama-3.1-8B-Instruct-8bit": ("by its name a copy", None),
    "/content/gone/llama-3.1-8b-instruct": ("by its name a copy", None),
    "old-owner/renamed": ("by what the hub says of it", None),
    "someone/my-awq": ("by what the hub says of it", None),
    "/content/gone/model": ("cannot be told by name", None),
    f"{CHAT}@main": (None, None),
    "mistralai/Mistral-7B-Instruct-v0.3": (None, "was trained on mistralai/.*--same-model"),
    "meta-llama/Llama-3.2-3B-Instruct": (None, "was trained on meta-llama/Llama-3.2"),
    BASE: (None, f"was trained on the base model {BASE}"),
    "unsloth/Meta-Llama-3.1-8B-bnb-4bit": (
        None,
        "was trained on the base model unsloth/Meta-Llama-3.1-8B-bnb-4bit",
    ),
    "someone/base-awq": (None, "was trained on the base model someone/base-awq"),
}
KNOWN = {
    "old-owner__renamed": {CHAT},
    "someone__my-awq": {"someone/my-awq", CHAT},
    "someone__base-awq": {BASE},
}


@pytest.fixture
def on_hub(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    return FakeHub(monkeypatch, {BASE: pair.base, CHAT: pair.aligned}, **KNOWN)


@pytest.mark.parametrize("role", ["task", "safety"])
@pytest.mark.parametrize("recorded", RECORDED)
def test_the_recorded_model_is_compared_by_name(
    on_hub: FakeHub, tmp_path: Path, recorded: str, role: str
) -> None:
    note, refusal = RECORDED[recorded]
    odd = write_lora(tmp_path / "odd", base=recorded, shapes={Q: (HIDDEN, HIDDEN)})
    good = write_lora(tmp_path / "good", base=CHAT, shapes={Q: (HIDDEN, HIDDEN)})
    adapters = (odd, good) if role == "task" else (good, odd)
    if refusal:
        with pytest.raises(UserError, match=refusal):
            repaired(Pair(BASE, CHAT), tmp_path / "out", *adapters)
        assert not (tmp_path / "out").exists()
        notes = repaired(Pair(BASE, CHAT), tmp_path / "out", *adapters, same_model=True).notes
        assert len(notes) == 1 and "as you say" in notes[0]
        return
    notes = repaired(Pair(BASE, CHAT), tmp_path / "out", *adapters).notes
    assert (len(notes) == 1 and note in notes[0] and "only its shapes" in notes[0]) if note else notes == []


@pytest.mark.parametrize("role", ["task", "safety"])
def test_a_recorded_folder_is_compared_by_weights(pair: Pair, tmp_path: Path, role: str) -> None:
    """The base and another model are refused, a copy in another precision is taken, a 4-bit one leaves a note."""
    good = write_lora(tmp_path / "good", base=str(pair.aligned))
    half = rewritten(
        copied(pair.aligned, tmp_path / "half"),
        lambda t: {k: v.half() for k, v in t.items()},
        "model.safetensors",
    )
    four = copied(pair.aligned, tmp_path / "chat-bnb-4bit")
    rewritten(
        four,
        lambda t: {k: v.to(torch.uint8) if "proj" in k else v for k, v in t.items()},
        "model.safetensors",
    )
    for number, (recorded, said) in enumerate(
        {
            pair.base: "the base model",
            half: None,
            four: "cannot be told by name; its shapes and the size of its vocab",
        }.items()
    ):
        odd = write_lora(tmp_path / f"odd {number}", base=str(recorded))
        adapters, out = ((odd, good) if role == "task" else (good, odd)), tmp_path / f"out {number}"
        if said == "the base model":
            with pytest.raises(UserError, match=said):
                repaired(pair, out, *adapters)
        else:
            notes = repaired(pair, out, *adapters).notes
            assert (said in notes[0]) if said else notes == []


def test_a_tokenizer_beside_the_adapter_speaks_against_another_model(pair: Pair, tmp_path: Path) -> None:
    aligned = copied(pair.aligned, tmp_path / "aligned")
    vocabulary(aligned, [f"t{i}" for i in range(VOCAB)])
    lora = write_lora(tmp_path / "lora", base="owner/aligned-bnb-4bit")

    def notes() -> list[str]:
        models = Checkpoint(pair.base), Checkpoint(aligned)
        return list(fitted(load_adapter(lora), *models).notes)

    vocabulary(lora, [f"t{i}" for i in range(VOCAB)], {"<pad>": VOCAB})
    assert "its shapes and its vocabulary were compared" in notes()[0]
    vocabulary(lora, [f"t{i + 1}" for i in range(VOCAB)])
    with pytest.raises(
        UserError, match=r"tokenizer of another model than .*64 of 64 tokens differ, such as 't0'"
    ):
        notes()


def test_the_command_has_the_flag_and_says_the_note(
    on_hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safemerge.cli import main

    task = write_lora(tmp_path / "task", base="someone/else")
    command = ["inspect", "--base", BASE, "--aligned", CHAT, "--task-adapter", str(task)]
    assert main(command) == 2 and "--same-model" in capsys.readouterr().err
    assert main([*command, "--same-model"]) == 0 and "note: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("reference", "revision"),
    [("org/loras/deep/gsm8k", None), ("org/loras/deep/gsm8k@refs/pr/1", "refs/pr/1")],
)
def test_a_folder_in_a_repository(
    on_hub: FakeHub, tmp_path: Path, reference: str, revision: str | None
) -> None:
    write_lora(tmp_path / "repo" / "deep" / "gsm8k")
    on_hub.folders["org/loras"] = tmp_path / "repo"
    assert Q in load_adapter(reference).modules
    assert set(on_hub.asked) == {
        ("org/loras", f"deep/gsm8k/{name}", revision)
        for name in ("adapter_config.json", "adapter_model.safetensors")
    }


def test_a_mistyped_folder_is_not_looked_for_on_the_hub(
    on_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no folder models/llama/lora; models is a folder here"):
        load_adapter("models/llama/lora")
    assert on_hub.asked == []
