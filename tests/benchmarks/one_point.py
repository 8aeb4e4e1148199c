"""One point of a sweep in a process of its own: merge, load the engine, generate. See `tests.benchmarks.sweep`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

START = time.monotonic()


def main(order: dict[str, Any]) -> None:
    """Print seconds until the engine was ready, tokens, and the replies."""
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
    repair_adapter(
        task=order["task"],
        safety=order["safety"],
        selected=order["selected"],
        repair=Repair(**order["repair"]),
        output=order["output"],
    )
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
                "ready_s": ready,
                "tokens": sum(reply.tokens for reply in replies),
                "replies": {reply.key: reply.text for reply in replies},
            }
        )
    )


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
