"""PEFT's patterns: matched as `re` matches them, in a bounded time, and refused where others could hang on them."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safemerge import load_adapter
from safemerge.errors import UserError
from safemerge.patterns import LONGEST, compiled, matches

NAMES = ["model.layers.0.self_attn.q_proj", "q_proj", "model.layers.10.self_attn.k_proj", "vision.model.q_proj", "Q_PROJ",
         "a.q_k_proj\n", "b", ".", "a.b", ""]  # fmt: skip
PATTERNS = ["q_proj", ".*q_proj", r"model\.layers\.(0|1|2)\..*q_proj", r"(?:.*\.)?layers\.\d+\.q_proj", "(?i:Q_PROJ)",
            "^model.layers..*$", "(?!.*vision).*q_proj", "[qk]_proj", "[^v]_proj", r"layers\.[0-5]\..*", "x|.*q_proj$",
            "(?:[qkv]_){1,2}proj", r"\bq_proj", r"\w+", "(?i:[A-Z]_proj)", "", "a??b*", r"q_proj\Z", "(?s:.*)",
            r"\S*\B_proj"]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_same_names_as_by_re(pattern: str) -> None:
    for name in NAMES:
        assert matches(pattern, name) == bool(re.match(rf"(.*\.)?({pattern})$", name)), name


@given(st.text(alphabet="ab.*+?|()[]{}1,^$\\", max_size=10), st.text(alphabet="ab.", max_size=8))
def test_any_pattern_matches_as_by_re_or_is_refused(pattern: str, name: str) -> None:
    try:
        found = matches(pattern, name)
    except ValueError as error:
        assert 3 < len(str(error)) < 200
        return
    assert found == bool(re.match(rf"(.*\.)?({pattern})$", name))


@pytest.mark.parametrize(
    "pattern", ["(a+)+b", "(a|a)*b", "((a*)*)*b", "(a{0,9}){0,9}b", "(.*a){100}b", "(a?b?)+"]
)
def test_what_others_would_hang_on_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="may take forever"):
        compiled(pattern)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [(r"(a)\1", "groupref"), ("(?<=a)b", "assert"), ("(?>a)", "atomic"), ("a*+", "possessive"), ("x" * 999, "999"),
     ("(" * 50 + "a" + ")" * 50, "groups"), ("(", "unterminated")],
)  # fmt: skip
def test_what_is_not_matched_is_named(pattern: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        compiled(pattern)


def test_no_pattern_takes_long() -> None:
    start = time.process_time()
    for pattern in (".*" * 9 + "b", "a*" * 40 + "b", ".*" * (LONGEST // 2)):
        matches(pattern, "a" * LONGEST)
    assert time.process_time() - start < 5, "by `re` the first alone takes days"


def test_an_adapter_with_such_a_pattern_is_one_line(tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "r": 4, "rank_pattern": {"(a+)+b": 4}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"not looked at")
    with pytest.raises(UserError, match=r"rank_pattern='\(a\+\)\+b'.*may take forever"):
        load_adapter(tmp_path)
