"""Generation by plain transformers with PEFT's adapters, where vLLM is not installed. See `evaluation.engine`."""

from __future__ import annotations

from collections.abc import Iterator

from evaluation.causal_model import load_model
from evaluation.engine import Reply, Request, sampling_seed, stop_ids


def generate(
    model: str,
    requests: list[Request],
    *,
    dtype: str,
    temperature: float,
    top_p: float,
    seed: int,
    logprobs: int | None,
) -> Iterator[Reply]:
    """Answer all requests, adapter by adapter, in batches of prompts of similar length."""
    import torch
    from peft import PeftModel
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(model)
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    bare = load_model(model, dtype)
    device = bare.device
    # Decoding comes from our config alone, not from the model's folder (a repetition penalty, say).
    stops = stop_ids(model, tokenizer)
    bare.generation_config = GenerationConfig(pad_token_id=pad, eos_token_id=stops)
    sampling = (
        {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
        if temperature > 0
        else {"do_sample": False}
    )
    for adapter in sorted({r.adapter_key for r in requests}):
        mine = sorted(
            (r for r in requests if r.adapter_key == adapter), key=lambda r: (r.max_tokens, len(r.prompt_ids))
        )
        folder = mine[0].adapter
        served = bare if folder is None else PeftModel.from_pretrained(bare, str(folder)).to(device).eval()
        # Rows of a batch share one sampler. All logits of a batch are held until it is done: a GiB of them at most.
        held = 4 * bare.config.vocab_size * max(request.max_tokens for request in mine)
        size = 1 if temperature > 0 else max(1, min(16, 2**30 // held))
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
                    output_logits=True,
                    **sampling,
                )
            for row, request in enumerate(batch):
                tokens = out.sequences[row, width:].tolist()[: request.max_tokens]
                end = next((i for i, token in enumerate(tokens) if token in stops), None)
                stopped = end is not None
                tokens = tokens if end is None else tokens[: end + 1]
                logprob, top = 0.0, list[dict[str, float]]()
                for position, token in enumerate(tokens):
                    scores = torch.log_softmax(out.logits[position][row].float(), -1)
                    logprob += float(scores[token])
                    if logprobs is not None:
                        best = scores.topk(logprobs or 1)
                        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
                        top.append({tokenizer.decode([token]): value for token, value in pairs})
                yield Reply(
                    request.key,
                    tokenizer.decode(tokens, skip_special_tokens=True),
                    len(tokens),
                    "stop" if stopped else "length",
                    tokens,
                    logprob,
                    ids[row][mask[row] == 1].tolist(),
                    [tokenizer.decode([token]) for token in tokens],
                    top,
                )
        if folder is not None:
            bare = served.unload()
