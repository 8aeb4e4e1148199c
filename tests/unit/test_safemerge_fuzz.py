"""Whatever lies in an adapter's or a model's folder: it is read, or refused in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from safemerge import Checkpoint, load_adapter
from safemerge.errors import UserError
from safemerge.names import embedding_key, inner, lora_key, module_name, names_of
from safemerge.screening import visible
from tests.unit.foreign import LFS, P, Q

# A longer run: FUZZ=100000 python -m pytest tests/unit/test_safemerge_fuzz.py
FUZZED = settings(
    max_examples=int(os.environ.get("FUZZ", "60")),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
SETTINGS = ["peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "base_model_name_or_path", "bias",
            "use_rslora", "init_lora_weights", "use_dora", "modules_to_save", "layer_replication"]  # fmt: skip
GOOD = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}
TENSORS = {f"{P}{Q}.lora_A.weight": torch.ones(4, 8), f"{P}{Q}.lora_B.weight": torch.ones(8, 4)}
WHOLE = save(TENSORS)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
VALUES = st.recursive(
    SCALARS | st.sampled_from(["LORA", "*.q_proj", "q_proj", "(", "none", 10**400, 4, 8, 0, -1]),
    lambda inside: (
        st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=8) | st.just("*"), inside, max_size=3)
    ),
    max_leaves=5,
)


def read_or_refused(folder: Path) -> None:
    """The property: a result, or one printable line of bounded length."""
    for read in (
        load_adapter,
        lambda its: Checkpoint(its).weight(Q),
        lambda its: Checkpoint(its).fingerprint(),
    ):
        try:
            read(folder)
        except UserError as error:
            line = " ".join(str(error).split())
            assert 10 < len(line) < 1500, line
            visible(line).encode()  # as it is printed


def filled(folder: Path, config: bytes, weights: bytes, *, single: bool = True) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_bytes(config)
    (folder / "config.json").write_bytes(config)
    (folder / "adapter_model.safetensors").write_bytes(weights)
    (folder / "model.safetensors").write_bytes(weights)
    return folder


@given(st.dictionaries(st.sampled_from(SETTINGS), VALUES, max_size=4))
@example({"rank_pattern": {"*.q_proj": 4}})
@example({"r": None})
@example({"lora_alpha": 10**400})
@example({"base_model_name_or_path": "\ud800"})
@FUZZED
def test_any_setting_is_taken_or_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    read_or_refused(filled(tmp_path / "x", json.dumps(GOOD | changes).encode(), WHOLE))


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
@example(LFS)
@example(b"[" * 50_000)
@FUZZED
def test_any_bytes_are_a_config_or_refused(tmp_path: Path, content: bytes) -> None:
    read_or_refused(filled(tmp_path / "x", content, WHOLE))


@given(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=9), st.integers(0, len(WHOLE)))
@FUZZED
def test_damaged_weights_are_read_or_refused(tmp_path: Path, place: int, change: bytes, end: int) -> None:
    """Overwritten somewhere, and perhaps cut off."""
    damaged = (WHOLE[:place] + change + WHOLE[place + len(change) :])[: end or None]
    read_or_refused(filled(tmp_path / "x", json.dumps(GOOD).encode(), damaged))


SHAPES = st.lists(st.integers(-1, 9) | st.just(1 << 62), max_size=3)
OFFSETS = st.lists(st.integers(-1, 300) | st.just(1 << 63), min_size=1, max_size=3)
DTYPES = st.sampled_from(
    ["F32", "F16", "BF16", "F64", "U8", "I4", "F4", "F8_E4M3", "F8_E8M0", "BOOL", "C64", "X", ""]
)
ENTRIES = st.fixed_dictionaries({"dtype": DTYPES, "shape": SHAPES, "data_offsets": OFFSETS}) | VALUES
NAMES = st.sampled_from(
    [*TENSORS, f"{Q}.weight", "__metadata__", "x", f"{P}lm_head.weight", f"{P}{Q}.lora_A.b.weight"]
)


@given(
    st.dictionaries(NAMES, ENTRIES, max_size=3),
    st.binary(max_size=300),
    st.none() | st.integers(0, (1 << 64) - 1),
)
@example({f"{Q}.weight": {"dtype": "F8_E8M0", "shape": [8], "data_offsets": [0, 8]}}, bytes(8), None)
@example({}, b"", 1 << 63)
@FUZZED
def test_any_header_is_read_or_refused(
    tmp_path: Path, entries: dict[str, Any], data: bytes, length: int | None
) -> None:
    header = json.dumps(entries).encode()
    file = (len(header) if length is None else length).to_bytes(8, "little") + header + data
    read_or_refused(filled(tmp_path / "x", json.dumps(GOOD).encode(), file))


@given(st.dictionaries(st.text(max_size=9), VALUES, max_size=3) | VALUES)
@example({f"{Q}.weight": "../../etc/passwd"})
@example({f"{Q}.weight": "a\0b"})
@FUZZED
def test_any_index_is_read_or_refused(tmp_path: Path, weight_map: Any) -> None:
    folder = filled(tmp_path / "x", b"{}", WHOLE)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    read_or_refused(folder)


PARTS = st.sampled_from(["model", "language_model", "base_model", "_orig_mod", "module", "layers", "0", "q_proj", "lm_head",
                         "embed_tokens", "lora_A", "lora_B", "default", "weight", "", "."])  # fmt: skip


@given(st.lists(PARTS, max_size=12).map(".".join) | st.text(max_size=40))
@FUZZED
def test_any_name_has_one_spelling(name: str) -> None:
    """Spelling it right once is spelling it right for good."""
    assert inner(inner(name)) == inner(name) and module_name(module_name(name)) == module_name(name)
    found = lora_key(name)
    if found is not None:
        again = lora_key(f"{P}{found.module}.lora_{found.side}.weight")
        assert again is not None and (again.module, again.side) == (found.module, found.side)
    embedding_key(name)
    names_of(name)


@pytest.mark.parametrize(
    "name", ["", "@", "/", "a@b@c", "models--", "~", "~nobody-of-that-name/x", "x" * 9999, "a\0/b"]
)
def test_no_reference_is_too_odd(name: str) -> None:
    for read in (load_adapter, lambda its: Checkpoint(its).shards):
        with pytest.raises(UserError):
            read(name)
