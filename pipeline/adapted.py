"""One model of transformers under many adapters, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from evaluation.causal_model import load_model


def on_adapters(folder: str, dtype: str, adapters: Sequence[Path | None]) -> Iterator[tuple[int, Any]]:
    """(index into `adapters`, the model with that adapter beside its weights, by PEFT); the model is loaded once.

    None is the bare model. Equal adapters follow one another, so that each is loaded once.
    """
    from peft import PeftModel

    bare = load_model(folder, dtype)
    for adapter in dict.fromkeys(adapters):
        # low_cpu_mem_usage: no initial values are drawn for what is loaded at once.
        model = (
            bare
            if adapter is None
            else PeftModel.from_pretrained(bare, str(adapter), low_cpu_mem_usage=True).eval()
        )
        yield from ((i, model) for i, its in enumerate(adapters) if its == adapter)
        bare = bare if adapter is None else model.unload()


def added_to(folder: str, dtype: str, adapters: Sequence[Path | None]) -> Iterator[tuple[int, Any]]:
    """The same without PEFT, which takes twice the time on a CPU: each module's x A B is added to its output in place.

    The adapter computes in the model's precision, as the engine's does.
    """
    from safemerge.adapters import load_adapter

    model = load_model(folder, dtype)
    for adapter in dict.fromkeys(adapters):
        added = []
        if adapter is not None:
            for name, lora in load_adapter(adapter).modules.items():
                module = model.get_submodule(name)
                a, b = (factor.to(module.weight) for factor in (lora.a, lora.b * lora.scaling))
                added.append(module.register_forward_hook(_adding(a, b)))
        yield from ((i, model) for i, its in enumerate(adapters) if its == adapter)
        for hook in added:
            hook.remove()


def _adding(a: Any, b: Any) -> Any:
    """A forward hook that adds x A B to a linear layer's output; a: r x d_in, b: d_out x r."""

    def hook(module: Any, inputs: tuple[Any, ...], output: Any) -> None:
        narrow = inputs[0].reshape(-1, a.shape[1]) @ a.T
        output.view(-1, b.shape[0]).addmm_(narrow, b.T)

    return hook
