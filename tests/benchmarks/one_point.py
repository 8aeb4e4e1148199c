"""One point of a sweep in a process of its own, as the authors' script goes about it. See `tests.benchmarks.sweep`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

START = time.monotonic()


def as_the_authors(order: dict[str, Any]) -> None:
    """Both models and both adapters in memory, rho by dense matrices, PEFT's weighted sum of the adapters."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from safemerge.adapters import load_adapter
    from tests.benchmarks.dense import dense_table

    base, aligned = (AutoModelForCausalLM.from_pretrained(order[name]) for name in ("base", "model"))
    both = PeftModel.from_pretrained(aligned, order["task"], adapter_name="task")
    both.load_adapter(order["safety"], "safety")
    dense_table(Path(order["base"]), Path(order["model"]), load_adapter(Path(order["task"])))
    both.add_weighted_adapter(["task", "safety"], [0.8, 0.2], "merged", "linear")
    del base, both


def main(order: dict[str, Any]) -> None:
    """Print seconds until the merge was done and until the engine was ready, tokens, and the replies."""
    import psutil
    from transformers import AutoTokenizer

    from data.chat import prompt_ids
    from evaluation import engine
    from pipeline import artifacts
    from safemerge import repair_adapter
    from safemerge.selection import Repair

    started = (
        time.time() - psutil.Process().create_time() - (time.monotonic() - START)
    )  # before this file ran
    as_the_authors(order)
    repair_adapter(  # what is served: the same on both sides
        task=order["task"],
        safety=order["safety"],
        selected=order["selected"],
        repair=Repair(**order["repair"]),
        output=order["output"],
    )
    merged = started + time.monotonic() - START
    tokenizer = AutoTokenizer.from_pretrained(order["model"])
    requests = [
        engine.Request(
            item.id,
            prompt_ids(tokenizer, item.prompt, system=order["system"]),
            order["max_tokens"],
            Path(order["output"]),
            "one",
        )
        for item in artifacts.items(Path(order["items"]))
    ]
    load, ready = engine._vllm, 0.0

    def timed(*args: Any, **options: Any) -> Any:
        nonlocal ready
        llm = load(*args, **options)
        ready = started + time.monotonic() - START
        return llm

    engine._vllm = timed  # type: ignore[assignment]
    replies = list(
        engine.generate(order["model"], requests, backend="vllm", dtype=order["dtype"], max_loras=1)
    )
    print(
        json.dumps(
            {
                "merged_s": merged,
                "ready_s": ready,
                "tokens": sum(reply.tokens for reply in replies),
                "replies": {reply.key: reply.text for reply in replies},
            }
        )
    )


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
