"""Our grouped LoRA products against vLLM's own CPU functions, which gather an adapter copy per token."""

from __future__ import annotations

import sys

import pytest

torch = pytest.importorskip("torch")
ops = pytest.importorskip("vllm.lora.ops.torch_ops.lora_ops", reason="vLLM is not installed")

from evaluation import lora_cpu  # noqa: E402
from safemerge.errors import UserError  # noqa: E402


def _indices(kind: str, n: int) -> object:
    if kind == "one":
        return torch.full((n,), 2)
    return torch.randint(0, 4, (n,), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", ["one", "mixed"])
@pytest.mark.parametrize("n", [1, 7])
def test_same_results_as_vllm(kind: str, n: int) -> None:
    torch.manual_seed(0)
    x, a = torch.randn(n, 24), torch.randn(4, 1, 8, 24)
    b, indices = torch.randn(4, 1, 40, 8), _indices(kind, n)
    theirs, ours = torch.zeros(n, 8), torch.zeros(n, 8)
    ops.bgmv_shrink(x, a, theirs, indices, 0.5)
    lora_cpu.shrink(x, a, ours, indices, 0.5)
    torch.testing.assert_close(ours, theirs)
    for add in (True, False):
        theirs, ours = torch.ones(n, 48), torch.ones(n, 48)
        ops.bgmv_expand(theirs.new_ones(n, 8), b, theirs, indices, add)
        lora_cpu.expand(ours.new_ones(n, 8), b, ours, indices, add)
        torch.testing.assert_close(ours, theirs)
        theirs, ours = torch.ones(n, 60), torch.ones(n, 60)
        ops.bgmv_expand_slice(theirs.new_ones(n, 8), b, theirs, indices, 10, 40, add)
        lora_cpu.expand_slice(ours.new_ones(n, 8), b, ours, indices, 10, 40, add)
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("prefill", [True, False])
@pytest.mark.parametrize("mapping", [(1, 1, 1, 1, 1), (1, 2, 2, 1, 2), (2, 0, 0, 1, 2), (0, 0, 0, 0, 0)])
def test_a_packed_projection_gets_each_tokens_own_adapter(
    mapping: tuple[int, ...], prefill: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three slices of one input, as q, k and v; adapters 1 and 2 of rank 4, 0 is none."""
    from vllm.lora.layers import LoRAMapping
    from vllm.lora.punica_wrapper import punica_cpu

    _kept(monkeypatch)
    lora_cpu.install()
    wrapper = punica_cpu.PunicaWrapperCPU(16, 8, "cpu")
    wrapper.update_metadata(LoRAMapping(mapping, mapping, is_prefill=prefill), [1, 2], 2, 100)
    torch.manual_seed(0)
    sizes = (24, 8, 8)
    x, y = torch.randn(5, 12), torch.randn(5, sum(sizes))
    a = tuple(torch.randn(2, 1, 4, 12) for _ in sizes)
    b = tuple(torch.randn(2, 1, size, 4) for size in sizes)
    expected = y.clone()
    for token, adapter in enumerate(mapping):
        if adapter:
            parts = [
                0.5 * (bs[adapter - 1, 0] @ (as_[adapter - 1, 0] @ x[token]))
                for as_, bs in zip(a, b, strict=True)
            ]
            expected[token] += torch.cat(parts)
    wrapper.add_lora_linear(y, x, a, b, 0.5, sizes)
    torch.testing.assert_close(y, expected)


def _kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What install() replaces comes back after the test."""
    from vllm.lora.punica_wrapper import punica_cpu

    for module in (ops, punica_cpu):
        for name in ("bgmv_expand", "bgmv_shrink", "bgmv_expand_slice"):
            monkeypatch.setattr(module, name, getattr(module, name))
    for name in ("add_lora_linear", "update_metadata"):
        monkeypatch.setattr(punica_cpu.PunicaWrapperCPU, name, getattr(punica_cpu.PunicaWrapperCPU, name))


def test_it_is_installed_in_both_places(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.lora.punica_wrapper import punica_cpu

    _kept(monkeypatch)
    lora_cpu.install()
    assert ops.bgmv_shrink is punica_cpu.bgmv_shrink is lora_cpu.shrink


def test_a_prompt_without_an_adapter_gets_none() -> None:
    torch.manual_seed(0)
    x, a = torch.randn(3, 24), torch.randn(1, 1, 8, 24)
    out = torch.ones(3, 8)
    lora_cpu.shrink(x, a, out, torch.tensor([-1, 0, -1]), 1.0)
    assert out[0].eq(0).all() and out[2].eq(0).all()
    torch.testing.assert_close(out[1], x[1] @ a[0, 0].T)
    only = torch.ones(3, 8)
    lora_cpu.shrink(x, a, only, torch.full((3,), -1), 1.0)
    assert only.eq(0).all()


def test_another_vllm_is_refused_instead_of_mixing_up_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    _kept(monkeypatch)
    monkeypatch.delattr(ops, "bgmv_shrink")
    with pytest.raises(UserError, match=r"no lora_ops\.bgmv_shrink"):
        lora_cpu.install()
    monkeypatch.setitem(sys.modules, "vllm.lora.punica_wrapper.punica_cpu", None)
    monkeypatch.delattr("vllm.lora.punica_wrapper.punica_cpu", raising=False)
    with pytest.raises(UserError, match="elsewhere"):
        lora_cpu.install()
