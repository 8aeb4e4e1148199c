"""How several engines share requests and GPUs; tests/recipe/test_engines.py starts them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.engine import Request
from evaluation.engines import devices, shares
from safemerge.errors import UserError


@given(st.lists(st.integers(1, 12), min_size=1, max_size=9), st.integers(1, 5))
def test_requests_are_shared_by_adapter_and_evenly(sizes: list[int], engines: int) -> None:
    """An adapter per size; all requests are of equal work here."""
    asked = [
        Request(f"{a}:{i}", [1], 4, adapter_key=str(a)) for a, size in enumerate(sizes) for i in range(size)
    ]
    parts = shares(asked, engines)
    assert sorted(r.key for part in parts for r in part) == sorted(r.key for r in asked), "each once"
    assert all(parts) and len(parts) <= engines
    assert max(len(part) for part in parts) <= len(asked) / engines + 1
    served = sum(len({r.adapter_key for r in part}) for part in parts)
    assert served <= len(sizes) + len(parts) - 1, "an adapter is in two engines only where a cut falls in it"


def test_long_requests_count_for_more() -> None:
    asked = [Request("long", [1] * 20, 20), *(Request(f"short {i}", [1], 3) for i in range(10))]
    assert [[r.key for r in part][:2] for part in shares(asked, 2)] == [["long"], ["short 0", "short 1"]]


def test_every_engine_gets_gpus_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices(2, 2) == ["0,1", "2,3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-a,6,7")
    assert devices(2, 1) == ["4", "GPU-a"]
    with pytest.raises(UserError, match=r"data_parallel_size=3 engines on 2 GPUs each need 6.*shows 4"):
        devices(3, 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices(2, 1) == [None, None]
