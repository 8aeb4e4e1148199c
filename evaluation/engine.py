"""Text generation with many adapters on one base model: vLLM, or plain transformers where vLLM is not installed.

Both take token ids (never strings) and give the same rows, so artifacts do not care which one made them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation import lora_cpu
from safemerge.errors import UserError


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
    """The answer to a request; `top` holds, per token, the likeliest tokens' text and log-probability (if asked for)."""

    key: str
    text: str
    tokens: int
    finish_reason: str  # "stop" at EOS, "length" when cut
    ids: list[int] = field(default_factory=list)  # of the generated tokens; others may spell the same text
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


def adapter_rank(folder: Path) -> int:
    """The LoRA rank that a PEFT folder declares."""
    import json

    return int(json.loads((folder / "adapter_config.json").read_text())["r"])


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
) -> Iterator[Reply]:
    """Answer all requests, in whatever order they finish.

    Raises:
        UserError: the backend is not installed, or a prompt does not fit the model.
    """
    if backend == "transformers":
        yield from _transformers(
            model, requests, dtype=dtype, temperature=temperature, top_p=top_p, seed=seed, logprobs=logprobs
        )
        return
    try:
        llm = _vllm(
            model,
            requests,
            dtype=dtype,
            max_num_seqs=max_num_seqs,
            max_loras=max_loras,
            gpu_memory_utilization=gpu_memory_utilization,
            tensor_parallel_size=tensor_parallel_size,
        )
    except ImportError as error:
        raise UserError(
            f"vLLM cannot be imported ({error}): run `make setup`, or use generation.backend=transformers"
        ) from error
    try:
        yield from _stream(
            model, llm, requests, temperature=temperature, top_p=top_p, seed=seed, logprobs=logprobs
        )
    finally:
        del llm
        _clean()


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
        needed = max(adapter_rank(folder) for folder in folders)
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
        max_model_len=longest + 8,
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
            logprobs=logprobs,
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
            top = [
                {lp.decoded_token or "": lp.logprob for lp in step.values()} for step in best.logprobs or []
            ]
            pieces = [
                step[token].decoded_token or ""
                for step, token in zip(best.logprobs or [], best.token_ids, strict=False)
            ]
            ids = list(best.token_ids)
            yield Reply(request.key, best.text, len(ids), best.finish_reason or "length", ids, pieces, top)


def _transformers(
    model: str,
    requests: list[Request],
    *,
    dtype: str,
    temperature: float,
    top_p: float,
    seed: int,
    logprobs: int | None,
) -> Iterator[Reply]:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(model)
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bare = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).to(device).eval()
    # Decoding comes from our config alone, not from the model's folder (a repetition penalty, say).
    stops = stop_ids(model, tokenizer)
    bare.generation_config = GenerationConfig(pad_token_id=pad, eos_token_id=stops)
    sampling = (
        {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
        if temperature > 0
        else {"do_sample": False}
    )
    size = 1 if temperature > 0 else 16  # rows of a batch share one sampler
    for adapter in sorted({r.adapter_key for r in requests}):
        mine = sorted(
            (r for r in requests if r.adapter_key == adapter), key=lambda r: (r.max_tokens, len(r.prompt_ids))
        )
        folder = mine[0].adapter
        served = bare if folder is None else PeftModel.from_pretrained(bare, str(folder)).to(device).eval()
        for start in range(0, len(mine), size):
            batch = mine[start : start + size]
            torch.manual_seed(sampling_seed(seed, batch[0]))
            width = max(len(r.prompt_ids) for r in batch)
            ids = torch.tensor(
                [[pad] * (width - len(r.prompt_ids)) + r.prompt_ids for r in batch], device=device
            )
            mask = torch.tensor(
                [[0] * (width - len(r.prompt_ids)) + [1] * len(r.prompt_ids) for r in batch], device=device
            )
            with torch.inference_mode():
                out = served.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    max_new_tokens=max(r.max_tokens for r in batch),
                    return_dict_in_generate=True,
                    output_logits=logprobs is not None,
                    **sampling,
                )
            for row, request in enumerate(batch):
                tokens = out.sequences[row, width:].tolist()[: request.max_tokens]
                end = next((i for i, token in enumerate(tokens) if token in stops), None)
                stopped = end is not None
                tokens = tokens if end is None else tokens[: end + 1]
                top: list[dict[str, float]] = []
                for position in range(len(tokens) if logprobs is not None else 0):
                    best = torch.log_softmax(out.logits[position][row].float(), -1).topk(logprobs or 1)
                    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
                    top.append({tokenizer.decode([token]): value for token, value in pairs})
                pieces = [tokenizer.decode([token]) for token in tokens]
                text = tokenizer.decode(tokens, skip_special_tokens=True)
                reason = "stop" if stopped else "length"
                yield Reply(request.key, text, len(tokens), reason, tokens, pieces, top)
        if folder is not None:
            bare = served.unload()
