"""The folder of a repaired adapter: its dtype, card and table; written as a whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from safemerge import read_table, repair_adapter, similarity_table
from safemerge.adapters import load_adapter
from safemerge.errors import UserError
from safemerge.selection import Repair
from tests.conftest import Pico
from tests.pico import write_lora

BLEND = Repair("blend", alpha=0.7)
SOME = ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj")


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32])
def test_the_output_has_the_input_dtype_unless_told(tmp_path: Path, stored: torch.dtype) -> None:
    task = write_lora(tmp_path / "task", dtype=stored)
    safety = write_lora(tmp_path / "safety", seed=1)
    for dtype, name in ((None, "same"), (torch.float32, "wide")):
        repair_adapter(
            task=task, safety=safety, selected=SOME, repair=BLEND, output=tmp_path / name, dtype=dtype
        )
        assert {
            tensor.dtype for tensor in load_file(tmp_path / name / "adapter_model.safetensors").values()
        } == {dtype or stored}


def test_card_and_table_say_what_was_done(pico: Pico, tmp_path: Path) -> None:
    rows = similarity_table(base=pico.base, aligned=pico.aligned, adapter=pico.task)
    card = {"method": "safemerge", "tau": 0.71}
    out = tmp_path / "out"
    repair_adapter(
        task=pico.task, safety=pico.safety, selected=SOME, repair=BLEND, output=out, card=card, rows=rows
    )
    text = (out / "README.md").read_text()
    for expected in (
        "| tau | 0.71 |",
        "| alpha | 0.7 |",
        "| combine | exact |",
        "2 of 14",
        SOME[0],
        "median",
    ):
        assert expected in text
    assert load_adapter(pico.task).digest in text
    assert load_adapter(pico.safety).digest in text
    assert read_table(out / "similarity.csv") == rows


def test_an_existing_output_is_kept_and_a_failure_leaves_nothing(pico: Pico, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    repair_adapter(task=pico.task, safety=pico.safety, selected=SOME, repair=BLEND, output=out)
    before = (out / "adapter_model.safetensors").read_bytes()
    with pytest.raises(UserError, match="exists"):
        repair_adapter(task=pico.task, safety=pico.safety, selected=(), repair=BLEND, output=out)
    assert (out / "adapter_model.safetensors").read_bytes() == before
    repair_adapter(task=pico.task, safety=pico.safety, selected=(), repair=BLEND, output=out, overwrite=True)
    assert (out / "adapter_model.safetensors").read_bytes() != before
    with pytest.raises(TypeError):
        repair_adapter(
            task=pico.task, safety=pico.safety, selected=(), repair=BLEND, output=tmp_path / "x", card=3
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"selected": ("model.layers.9.mlp.up_proj",)}, "model.layers.9.mlp.up_proj is selected"),
        ({"safety": None}, "needs a safety adapter"),
        ({"repair": Repair("project")}, "needs the base and aligned models"),
    ],
)
def test_bad_requests_are_refused(pico: Pico, tmp_path: Path, change: dict, message: str) -> None:
    request = {
        "task": pico.task,
        "safety": pico.safety,
        "selected": SOME,
        "repair": BLEND,
        "output": tmp_path / "out",
    }
    with pytest.raises(UserError, match=message):
        repair_adapter(**(request | change))
    assert not list(tmp_path.iterdir())
