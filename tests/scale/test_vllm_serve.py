"""A real `vllm serve` on loopback gives what transformers gives, for the bare model and for a LoRA loaded while it runs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from evaluation.engine import Reply, Request, generate
from safemerge.errors import UserError
from tests.pico import write_lora
from tests.recipe.test_vllm_adapter import SHAPES, VOCAB

pytest.importorskip("vllm", reason="vLLM is not installed here (there is no build for this platform)")
pytestmark = pytest.mark.scale
PROMPTS = {name: [3 + i, 5 + 2 * i, 7, 9, 11 + i] for i, name in enumerate("abcdef")}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that a CPU's attention takes, with a generation_config.json that would change every reply."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("served") / "model"
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 192, "vocab_size": VOCAB, "num_hidden_layers": 2}
    LlamaForCausalLM(LlamaConfig(**sizes, **HEADS, initializer_range=0.1)).save_pretrained(path)
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0"))
    special = {"unk_token": "w0", "eos_token": "w1", "additional_special_tokens": ["w2"]}
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(path)
    GenerationConfig(do_sample=True, repetition_penalty=1.5, top_k=3, eos_token_id=[1, 2]).save_pretrained(
        path
    )
    shapes = {f"model.layers.{i}.{kind}": shape for i in range(2) for kind, shape in SHAPES.items()}
    write_lora(path.parent / "lora", rank=8, alpha=64, shapes=shapes, base=str(path))
    return path


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    """The address of a server with that model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # What `vllm serve` starts; that command itself asks for the version of a package that the CPU build is not called.
    command = ["vllm.entrypoints.openai.api_server", "--model", str(folder), "--host", "127.0.0.1"]
    options = [
        "--port",
        str(port),
        "--dtype",
        "float32",
        "--max-model-len",
        "64",
        "--enforce-eager",
        "--block-size",
        "32",
    ]
    options += ["--enable-lora", "--max-lora-rank", "8"]
    own = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    own |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    log = folder.parent / "server.log"
    with log.open("w") as sink:
        server = subprocess.Popen(
            [sys.executable, "-m", *command, *options],
            env={**os.environ, **own},
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(server, port, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(timeout=60)


def wait_for(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Until it listens."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        if server.poll() is not None:
            break
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    pytest.fail(f"vllm serve did not start: {log.read_text()[-3000:]}")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "VLLM_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def asked(folder: Path, adapter: Path | None, *servers: str) -> dict[str, Reply]:
    wanted = [Request(n, ids, 8, adapter, "c0ffee" if adapter else "") for n, ids in PROMPTS.items()]
    backend = "server" if servers else "transformers"
    found = generate(str(folder), wanted, backend=backend, dtype="float32", servers=servers, logprobs=5)
    return {reply.key: reply for reply in found}


@pytest.mark.parametrize("lora", [False, True], ids=["bare", "lora"])
def test_a_server_gives_what_transformers_gives(lora: bool, folder: Path, url: str) -> None:
    adapter = folder.parent / "lora" if lora else None
    expected, found = asked(folder, adapter), asked(folder, adapter, url)
    assert found.keys() == expected.keys()
    for key, reply in expected.items():
        its = found[key]
        assert (its.ids, its.prompt_ids) == (reply.ids, reply.prompt_ids)
        assert its.finish_reason == reply.finish_reason
        # vLLM puts this tokenizer's spaces before its words, and transformers between them.
        assert its.text.split() == reply.text.split()
        assert [piece.strip() for piece in its.pieces] == reply.pieces
        assert its.logprob == pytest.approx(reply.logprob, abs=1e-3)
        for one, other in zip(its.top, reply.top, strict=True):
            assert max(one.values()) == pytest.approx(max(other.values()), abs=1e-3)
    assert any(found[k].ids != its.ids for k, its in asked(folder, None).items()) is lora


def test_an_adapter_of_too_high_a_rank_is_one_line(folder: Path, url: str) -> None:
    shapes = {"model.layers.0.self_attn.q_proj": SHAPES["self_attn.q_proj"]}
    wide = folder.parent / "wide"
    if not wide.exists():
        write_lora(wide, rank=32, shapes=shapes, base=str(folder))
    with pytest.raises(UserError, match=r"cannot load .*wide .*--max-lora-rank"):
        list(
            generate(
                str(folder),
                [Request("x", [3, 4], 4, wide, "f00d")],
                backend="server",
                dtype="float32",
                servers=[url],
            )
        )
