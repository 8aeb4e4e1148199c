"""One model of transformers under many adapters, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def on_adapters(folder: str, dtype: str, adapters: Sequence[Path | None]) -> Iterator[tuple[int, Any]]:
    """(index into `adapters`, the model with that adapter beside its weights); the model is loaded once.

    None is the bare model. Equal adapters follow one another, so that each is loaded once.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    bare = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).to(device).eval()
    for adapter in dict.fromkeys(adapters):
        # low_cpu_mem_usage: no initial values are drawn for what is loaded at once.
        model = (
            bare
            if adapter is None
            else PeftModel.from_pretrained(bare, str(adapter), low_cpu_mem_usage=True).eval()
        )
        yield from ((i, model) for i, its in enumerate(adapters) if its == adapter)
        bare = bare if adapter is None else model.unload()
