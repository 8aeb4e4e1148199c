"""Generation by vLLM servers that already run, over their OpenAI-compatible API. See `evaluation.engine`.

    VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 vllm serve MODEL --enable-lora --max-lora-rank 64 --port 8000

Token ids go out and come back. Adapters are loaded when they are first asked for, under the hash of their content, from a
folder that the server must see under the same path; they stay loaded, since other runs may be asking for them, too.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from evaluation.engine import Reply, Request, sampling_seed, stop_ids
from safemerge.errors import UserError

KEY_ENV = "VLLM_API_KEY"  # the environment variable with the servers' key, under vLLM's own name
ATTEMPTS, TIMEOUT_S = 5, 600.0  # 429, 5xx and lost connections are tried again, with growing pauses
PARALLEL = 64  # requests in flight per server, at most


class Server:
    """One server: what it calls its model, and which adapters it has."""

    def __init__(self, url: str) -> None:
        import openai

        self.url = url
        key = os.environ.get(KEY_ENV) or "none"  # vLLM looks at it only where it was started with one
        self.client = openai.OpenAI(base_url=url, api_key=key, timeout=TIMEOUT_S, max_retries=ATTEMPTS - 1)
        try:
            served = list(self.client.with_options(max_retries=1, timeout=30).models.list())
        except openai.OpenAIError as error:
            raise UserError(
                f"the server at {url} does not answer ({_said(error)}): start it with `vllm serve`, or give another "
                f"address (ending in /v1); its key is read from {KEY_ENV}"
            ) from error
        base = [its.id for its in served if not getattr(its, "parent", None)]
        if not base:
            raise UserError(f"the server at {url} serves no model: start it with `vllm serve MODEL`")
        self.model = base[0]
        self.adapters = {its.id for its in served} - set(base)
        self._loading = threading.Lock()

    def named(self, request: Request) -> str:
        """What the server calls the model that a request is for, its adapter loaded.

        Raises:
            UserError: it cannot load the adapter.
        """
        if request.adapter is None:
            return self.model
        import openai

        with self._loading:
            if request.adapter_key not in self.adapters:
                asked = {"lora_name": request.adapter_key, "lora_path": str(request.adapter)}
                try:
                    self.client.post("/load_lora_adapter", body=asked, cast_to=str)
                except openai.APIStatusError as error:
                    if "already been loaded" not in str(error):  # by another run
                        raise UserError(self._refusal(error, request)) from error
                self.adapters.add(request.adapter_key)
        return request.adapter_key

    def _refusal(self, error: Any, request: Request) -> str:
        if error.status_code == 404 and "adapter" not in _said(error):
            return (
                f"the server at {self.url} loads no adapters while it runs: start it with --enable-lora and "
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 in its environment"
            )
        return (
            f"the server at {self.url} cannot load {request.adapter} ({_said(error)}): it must see the store under the "
            "same path, and run with --enable-lora and a --max-lora-rank that is large enough"
        )


def _said(error: Exception) -> str:
    """What a server, or the way to it, said, in one line."""
    body = getattr(error, "body", None)
    found = body.get("message") or body.get("detail") if isinstance(body, dict) else None
    return " ".join(str(found or error).split())[:300]


def generate(
    model: str,
    requests: list[Request],
    *,
    servers: Sequence[str],
    temperature: float,
    top_p: float,
    seed: int,
    logprobs: int | None,
    max_num_seqs: int,
) -> Iterator[Reply]:
    """Answer all requests, shared evenly among the servers, as they finish.

    model: the folder of the model that the servers are to serve, for its tokenizer's and configuration's end tokens.

    Raises:
        UserError: a server does not answer, refuses a request, or lacks what is asked of it.
    """
    from transformers import AutoTokenizer

    found = [Server(url) for url in servers]
    stops = stop_ids(model, AutoTokenizer.from_pretrained(model))
    # What a server would otherwise take from the model's folder is said in full: decoding comes from our config alone.
    decoding: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "presence_penalty": 0.0}
    decoding |= {"frequency_penalty": 0.0, "logprobs": logprobs or 0}
    extra = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "stop_token_ids": stops}
    extra |= {"return_token_ids": True}

    def one(server: Server, request: Request) -> Reply:
        own = {"seed": sampling_seed(seed, request)} if temperature > 0 else {}
        return _reply(server, request, logprobs is not None, extra, {**decoding, **own})

    # Prompts of one adapter follow one another: a server then swaps each adapter in once.
    ordered = sorted(requests, key=lambda r: (r.adapter_key, r.key))
    pool = ThreadPoolExecutor(len(found) * min(max_num_seqs, PARALLEL))
    try:
        waiting = [pool.submit(one, found[i % len(found)], request) for i, request in enumerate(ordered)]
        for done in as_completed(waiting):
            yield done.result()
    finally:  # also when one failed, or nobody wants the rest
        pool.shutdown(cancel_futures=True)
        for server in found:
            server.client.close()


def _reply(
    server: Server, request: Request, top: bool, extra: dict[str, Any], decoding: dict[str, Any]
) -> Reply:
    import openai

    try:
        answer = server.client.completions.create(
            model=server.named(request),
            prompt=request.prompt_ids,
            max_tokens=request.max_tokens,
            extra_body=extra,
            **decoding,
        )
    except openai.OpenAIError as error:
        raise UserError(
            f"the server at {server.url} did not answer a request ({_said(error)}); see its log, then rerun the same "
            "command to resume"
        ) from error
    choice = answer.choices[0]
    ids, asked = getattr(choice, "token_ids", None), getattr(choice, "prompt_token_ids", None)
    if ids is None or asked is None or choice.logprobs is None:
        raise UserError(f"the server at {server.url} gives no token ids: it must be vLLM (0.10 or newer)")
    its = choice.logprobs
    written = its.token_logprobs or []
    if len(written) != len(ids) or None in written:
        raise UserError(f"the server at {server.url} gives no log-probability of some tokens: see its log")
    return Reply(
        request.key,
        choice.text,
        len(ids),
        choice.finish_reason or "length",
        list(ids),
        math.fsum(written),
        list(asked),
        list(its.tokens or []) if top else [],
        [dict(step) for step in its.top_logprobs or []] if top else [],
    )
