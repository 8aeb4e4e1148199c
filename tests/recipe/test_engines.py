"""Several engines share the requests and answer like one: of transformers here, of vLLM in test_vllm_adapter.py."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import psutil
import pytest

from evaluation.engine import Reply, Request, generate
from tests import pico

pytestmark = pytest.mark.recipe


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("model")
    pico.build_model(seed=3).save_pretrained(path / "model")
    raw = Tokenizer(models.WordLevel({f"w{i}": i for i in range(pico.VOCAB)}, unk_token="w0"))
    made = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="w0", eos_token="w1")
    made.save_pretrained(path / "model")
    for seed in range(3):
        pico.write_lora(path / f"lora{seed}", seed=seed, base=str(path / "model"))
    return path


def requests(model: Path) -> list[Request]:
    """Two prompts for the bare model and each of three adapters."""
    adapters: list[tuple[Path | None, str]] = [
        (None, ""),
        *((model / f"lora{i}", f"lora{i}") for i in range(3)),
    ]
    return [
        Request(f"{key}:{name}", [3 + i, 5, 7], 6, adapter, key, item=name)
        for adapter, key in adapters
        for i, name in enumerate("ab")
    ]


def answers(model: Path, engines: int) -> dict[str, Reply]:
    how = {"backend": "transformers", "dtype": "float32", "temperature": 1.0, "seed": 5}
    made = generate(str(model / "model"), requests(model), data_parallel_size=engines, **how)  # type: ignore[arg-type]
    return {reply.key: reply for reply in made}


def test_two_engines_answer_like_one(model: Path) -> None:
    one, two = answers(model, 1), answers(model, 2)
    assert one.keys() == two.keys() and len(one) == 8
    for key, reply in one.items():
        assert (two[key].ids, two[key].text) == (reply.ids, reply.text)
        assert two[key].logprob == pytest.approx(reply.logprob, abs=1e-4)
    assert not _children()


def test_what_goes_wrong_in_an_engine_arrives_and_the_others_end(model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    (broken / "lora2" / "adapter_model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(RuntimeError, match="an engine failed: "):
        answers(broken, 2)
    assert not _children()


def _children() -> list[str]:
    """But for the process that Python keeps to clean up after those it spawned."""
    every = [" ".join(p.cmdline()) for p in psutil.Process(os.getpid()).children(recursive=True)]
    return [command for command in every if "resource_tracker" not in command]
