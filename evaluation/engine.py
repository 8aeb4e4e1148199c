"""Text generation with many adapters on one base model: vLLM, plain transformers where it is not installed, or servers.

All take token ids (never strings) and give the same rows, so artifacts do not care which one made them.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation import lora_cpu
from safemerge.errors import UserError
from safemerge.peft_config import largest_rank


@dataclass(frozen=True)
class Request:
    """One prompt for one adapter (None: the bare model)."""

    key: str
    prompt_ids: list[int]
    max_tokens: int
    adapter: Path | None = None
    adapter_key: str = ""  # the adapter's content hash: names it, so that no stale cache can answer for it
    item: str = ""  # the prompt's id, which decides the sampling seed; "" is the key


@dataclass(frozen=True)
class Reply:
    """The answer to a request.

    `logprob` is that of the generated tokens, summed (nats), by the model alone: before temperature and top_p. `top` holds,
    per token, the likeliest tokens' text and log-probability (if asked for).
    """

    key: str
    text: str
    tokens: int
    finish_reason: str  # "stop" at EOS, "length" when cut
    ids: list[int] = field(default_factory=list)  # of the generated tokens; others may spell the same text
    logprob: float = 0.0
    prompt_ids: list[int] = field(default_factory=list)  # as the engine reports them
    pieces: list[str] = field(default_factory=list)
    top: list[dict[str, float]] = field(default_factory=list)


def sampling_seed(seed: int, request: Request) -> int:
    """The seed of a request's sampler: of the run's seed and the prompt, whatever else is in the batch."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{request.item or request.key}".encode()).digest()[:4])


def stop_ids(model: str, tokenizer: Any) -> list[int]:
    """Every token that ends a reply: the tokenizer's EOS, and those that the model's own configuration lists."""
    from transformers import GenerationConfig

    found = {tokenizer.eos_token_id}
    if (Path(model) / "generation_config.json").exists():
        listed = GenerationConfig.from_pretrained(model).eos_token_id
        found |= set(listed if isinstance(listed, list) else [listed])
    return sorted(token for token in found if token is not None)


def generate(
    model: str,
    requests: list[Request],
    *,
    backend: str,
    dtype: str,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    logprobs: int | None = None,
    max_num_seqs: int = 256,
    max_loras: int = 8,
    gpu_memory_utilization: float = 0.9,
    tensor_parallel_size: int = 1,
    data_parallel_size: int = 1,
    servers: Sequence[str] = (),
) -> Iterator[Reply]:
    """Answer all requests, in whatever order they finish. `servers` are the addresses for backend `server`.

    Args:
        data_parallel_size: engines that share the requests, each in a process of its own.

    Raises:
        UserError: the backend is not installed, a server refuses, or a prompt does not fit the model.
    """
    check_fits(model, requests)
    decoding: dict[str, Any] = {
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
        "logprobs": logprobs,
    }
    size: dict[str, Any] = {
        "max_num_seqs": max_num_seqs,
        "max_loras": max_loras,
        "gpu_memory_utilization": gpu_memory_utilization,
        "tensor_parallel_size": tensor_parallel_size,
    }
    if backend == "server":
        from evaluation import server_engine

        yield from server_engine.generate(
            model, requests, servers=servers, max_num_seqs=max_num_seqs, **decoding
        )
        return
    if data_parallel_size > 1 and len(requests) > 1:
        from evaluation import engines

        how = {"backend": backend, "dtype": dtype, **decoding, **size}
        yield from engines.generate(model, requests, data_parallel_size=data_parallel_size, **how)
        return
    if backend == "transformers":
        from evaluation import transformers_engine

        yield from transformers_engine.generate(model, requests, dtype=dtype, **decoding)
        return
    try:
        llm = _vllm(model, requests, dtype=dtype, **size)
    except ImportError as error:
        raise UserError(
            f"vLLM cannot be imported ({error}): run `make setup`, or use generation.backend=transformers"
        ) from error
    try:
        yield from _stream(model, llm, requests, **decoding)
    finally:
        del llm
        _clean()


def longest_context(model: str) -> int | None:
    """Tokens that a model takes, prompt and reply together; None where its config.json does not say it plainly."""
    try:
        config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    config = config.get("text_config") or config
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if scaling.get("rope_type", scaling.get("type", "default")) not in ("default", "llama3"):
        return None  # others stretch it
    limit = config.get("max_position_embeddings")
    return limit if isinstance(limit, int) else None


def check_fits(model: str, requests: list[Request]) -> None:
    """Every prompt and its reply fit into the model's context.

    Raises:
        UserError: one does not, with its length.
    """
    limit = longest_context(model)
    long = max(requests, key=lambda r: len(r.prompt_ids) + r.max_tokens, default=None)
    if limit is not None and long is not None and len(long.prompt_ids) + long.max_tokens > limit:
        raise UserError(
            f"the prompt {long.item or long.key} has {len(long.prompt_ids)} tokens and its reply up to {long.max_tokens}, "
            f"but {model} takes {limit} together: shorten or remove it, or lower generation.max_tokens"
        )


def _clean() -> None:
    """Free what the last engine held, so that another can start in this process. On a GPU the process ends instead."""
    import torch
    from vllm.distributed import cleanup_dist_env_and_memory

    if not torch.cuda.is_available():
        cleanup_dist_env_and_memory()


def _vllm(
    model: str,
    requests: list[Request],
    *,
    dtype: str,
    max_num_seqs: int,
    max_loras: int,
    gpu_memory_utilization: float,
    tensor_parallel_size: int,
) -> Any:
    # One process is enough for one device, and loads in 8 s instead of 35 s on a CPU.
    if tensor_parallel_size == 1:
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    # Its automatic binding keeps one core for a front end that we do not have: half the speed on two cores.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    import torch
    from vllm import LLM

    folders = sorted({r.adapter for r in requests if r.adapter is not None})
    lora: dict[str, Any] = {}
    if folders:
        # vLLM refuses ranks above max_lora_rank, which defaults to 16 and comes in steps.
        needed = max(largest_rank(folder) for folder in folders)
        rank = next((r for r in (8, 16, 32, 64, 128, 256, 320, 512) if r >= needed), None)
        if rank is None:
            raise UserError(
                f"an adapter has rank {needed}; vLLM serves up to 512: set method.*.rank to truncate it"
            )
        lora = {
            "enable_lora": True,
            "max_lora_rank": rank,
            "max_loras": min(max_loras, len(folders)),
            "max_cpu_loras": max(max_loras, len(folders)),
        }
    cuda = torch.cuda.is_available()
    if lora and not cuda:
        lora_cpu.install()
    longest = max(len(r.prompt_ids) + r.max_tokens for r in requests)
    extra: dict[str, Any] = (
        {"gpu_memory_utilization": gpu_memory_utilization, "tensor_parallel_size": tensor_parallel_size}
        if cuda
        # Its default on a CPU, 128 tokens, is longer than most prompts: no two would share a cached beginning.
        else {"block_size": 32}
    )
    return LLM(
        model=model,
        dtype=dtype,
        enforce_eager=not cuda,
        max_model_len=min(longest + 8, longest_context(model) or longest + 8),
        max_num_seqs=max_num_seqs,
        seed=0,
        disable_log_stats=True,
        generation_config="vllm",  # decoding comes from our config alone, not from the model's folder
        **lora,
        **extra,
    )


def _stream(
    model: str,
    llm: Any,
    requests: list[Request],
    *,
    temperature: float,
    top_p: float,
    seed: int,
    logprobs: int | None,
) -> Iterator[Reply]:
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    engine, stops = llm.llm_engine, stop_ids(model, llm.get_tokenizer())
    # Prompts of one adapter follow one another: the server then swaps each adapter in once.
    ordered = sorted(requests, key=lambda r: (r.adapter_key, r.key))
    numbers = {key: i + 1 for i, key in enumerate(sorted({r.adapter_key for r in ordered if r.adapter}))}
    for index, request in enumerate(ordered):
        params = SamplingParams(
            temperature=temperature,
            top_p=top_p,
            seed=sampling_seed(seed, request) if temperature > 0 else None,
            max_tokens=request.max_tokens,
            logprobs=logprobs or 0,  # 0: of the written token only
            stop_token_ids=stops,
        )
        lora = None
        if request.adapter is not None:
            lora = LoRARequest(request.adapter_key, numbers[request.adapter_key], str(request.adapter))
        engine.add_request(str(index), {"prompt_token_ids": request.prompt_ids}, params, lora_request=lora)
    while engine.has_unfinished_requests():
        for output in engine.step():
            if not output.finished:
                continue
            request, best = ordered[int(output.request_id)], output.outputs[0]
            ids, steps = list(best.token_ids), list(best.logprobs or [])
            written = [step[token] for step, token in zip(steps, ids, strict=True)]
            asked = logprobs is not None
            yield Reply(
                request.key,
                best.text,
                len(ids),
                best.finish_reason or "length",
                ids,
                math.fsum(its.logprob for its in written),
                list(output.prompt_token_ids or []),
                [its.decoded_token or "" for its in written] if asked else [],
                [{its.decoded_token or "": its.logprob for its in step.values()} for step in steps]
                if asked
                else [],
            )
