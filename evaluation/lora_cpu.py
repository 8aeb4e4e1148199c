"""vLLM's CPU LoRA kernels, without copying an adapter for every token.

vLLM 0.32 serves LoRA on a CPU by gathering each token's own copy of A and B (`weights[token_indices]`) and converting it to
float32: 10 MB of copies per token at 135M parameters and rank 16, most of the run time. Tokens of one adapter can share one
matrix product instead. Same arithmetic, tested against vLLM's own functions, but for prompts without an adapter, which
vLLM's functions get wrong (see `grouped`). CUDA does not use them.
"""

from __future__ import annotations

from typing import Any

from data.errors import UserError


def grouped(inputs: Any, weights: Any, indices: Any, dtype: Any) -> Any:
    """Each row times the matrix that its index names: inputs n x i, weights k (x 1) x o x i, indices n; gives n x o.

    A negative index means no adapter and gives zeros. vLLM's own functions take the last adapter for it, so that prompts
    for the bare model get somebody else's adapter whenever they share a batch with it.
    """
    matrices = weights.squeeze(1) if weights.dim() == 4 else weights
    rows = inputs.to(dtype)
    found = indices.unique().tolist()
    if len(found) == 1 and found[0] >= 0:
        return rows @ matrices[found[0]].to(dtype).T
    out = rows.new_zeros(rows.shape[0], matrices.shape[1])
    for index in (i for i in found if i >= 0):
        mine = indices == index
        out[mine] = rows[mine] @ matrices[index].to(dtype).T
    return out


def expand(inputs: Any, weights: Any, output: Any, indices: Any, add_inputs: bool = True) -> None:
    """Stands in for vllm.lora.ops.torch_ops.bgmv_expand."""
    result = grouped(inputs, weights, indices, output.dtype)
    width = min(result.shape[1], output.shape[1])
    rows = 1 if result.shape[0] == 1 and output.shape[0] != 1 else output.shape[0]
    if add_inputs:
        output[:, :width] += result[:rows, :width]
    else:
        output[:, :width] = result[:rows, :width]


def shrink(inputs: Any, weights: Any, output: Any, indices: Any, scaling: float = 1.0) -> None:
    """Stands in for vllm.lora.ops.torch_ops.bgmv_shrink."""
    result = grouped(inputs, weights, indices, output.dtype)
    output[:, : result.shape[1]] = scaling * result


def expand_slice(
    inputs: Any, weights: Any, output: Any, indices: Any, start: int, size: int, add_inputs: bool = True
) -> None:
    """Stands in for vllm.lora.ops.torch_ops.bgmv_expand_slice."""
    result = grouped(inputs, weights, indices, output.dtype)
    if add_inputs:
        output[:, start : start + size] += result
    else:
        output[:, start : start + size] = result


def install() -> None:
    """Replace vLLM's functions in this process.

    Raises:
        UserError: this vLLM has none of that name. Its own might mix up adapters, so nothing is generated with them.
    """
    advice = "use the pinned vLLM (`make setup`) or generation.backend=transformers"
    try:
        from vllm.lora.ops.torch_ops import lora_ops
        from vllm.lora.punica_wrapper import punica_cpu
    except ImportError as error:
        raise UserError(f"this vLLM keeps its CPU LoRA functions elsewhere ({error}): {advice}") from error
    ours = {"bgmv_expand": expand, "bgmv_shrink": shrink, "bgmv_expand_slice": expand_slice}
    for name, function in ours.items():
        if not hasattr(lora_ops, name):
            raise UserError(f"this vLLM has no lora_ops.{name}: {advice}")
        for module in (lora_ops, punica_cpu):  # the second imported them by name; sgmv_* call the first's
            if hasattr(module, name):
                setattr(module, name, function)
