"""vLLM's CPU LoRA kernels, without copying an adapter for every token.

vLLM 0.32 serves LoRA on a CPU by gathering each token's own copy of A and B (`weights[token_indices]`) and converting it to
float32: 10 MB of copies per token at 135M parameters and rank 16, most of the run time. Tokens of one adapter can share one
matrix product instead, and the projections that share an input (q, k, v; gate, up) one product with A. Same arithmetic,
tested against vLLM's own functions, but for prompts without an adapter, which vLLM's functions get wrong (see `grouped`).
CUDA does not use them.
"""

from __future__ import annotations

from typing import Any

from safemerge.errors import UserError


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


def adapters_in(indices: Any) -> list[tuple[int, Any]]:
    """The adapters of a batch, each with the mask of its tokens; None when all tokens are its own."""
    found = indices.unique().tolist()
    if len(found) == 1 and found[0] >= 0:
        return [(found[0], None)]
    return [(index, indices == index) for index in found if index >= 0]


def linear(
    self: Any,
    y: Any,
    x: Any,
    lora_a_stacked: tuple[Any, ...],
    lora_b_stacked: tuple[Any, ...],
    scale: float,
    output_slices: tuple[int, ...],
    **unused: Any,
) -> None:
    """Stands in for PunicaWrapperCPU.add_lora_linear: y (tokens x sum of slices) += scale x A B, slice by slice, in place.

    x A is rounded to y's format before B, as in vLLM, which computes it in float32. Looking which tokens are whose is done
    once per batch (`update_metadata`), not at every module.
    """
    import torch

    outputs, inputs = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
    for index, mine in self.adapters_in_batch:
        rows = (inputs if mine is None else inputs[mine]).to(y.dtype)
        narrow = rows @ torch.cat([stacked[index, 0] for stacked in lora_a_stacked]).to(y.dtype).T
        ranks = [stacked.shape[2] for stacked in lora_a_stacked]
        start = 0
        for part, stacked, size in zip(narrow.split(ranks, 1), lora_b_stacked, output_slices, strict=True):
            b = stacked[index, 0].to(y.dtype)
            target = outputs[:, start : start + b.shape[0]]
            if mine is None:
                target.addmm_(part, b.T, alpha=scale)
            else:
                target[mine] += scale * (part @ b.T)
            start += size


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
    wrapper = punica_cpu.PunicaWrapperCPU
    if not hasattr(wrapper, "add_lora_linear") or not hasattr(wrapper, "update_metadata"):
        raise UserError(f"this vLLM's PunicaWrapperCPU has no add_lora_linear: {advice}")
    own = punica_cpu.PunicaWrapperBase.update_metadata

    def update_metadata(self: Any, *args: Any, **kwargs: Any) -> None:
        own(self, *args, **kwargs)
        self.adapters_in_batch = adapters_in(self.token_lora_indices)

    wrapper.update_metadata = update_metadata
    wrapper.add_lora_linear = linear
