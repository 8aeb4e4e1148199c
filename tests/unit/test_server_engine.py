"""Generation by servers that already run, against a stand-in; tests/recipe/test_vllm_serve.py asks the same of vLLM."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from evaluation import server_engine
from evaluation.engine import Reply, Request, generate
from pipeline import answers
from safemerge.errors import UserError
from tests.pico import VOCAB, build_model, write_lora
from tests.planning import experiment
from tests.served import StandIn
from tests.unit.test_threshold import hydra as hydra

PROMPTS = {name: [3 + i, 5 + 2 * i, 7] for i, name in enumerate("abcd")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer, models

    path = tmp_path_factory.mktemp("served") / "model"
    build_model(seed=3).save_pretrained(path)
    raw = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="w0", eos_token="w1").save_pretrained(path)
    write_lora(path.parent / "lora", base=str(path), alpha=64)
    return path


@pytest.fixture
def served(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Starts stand-ins."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "VLLM_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    started: list[StandIn] = []

    def start(**options: Any) -> StandIn:
        started.append(StandIn(folder, **options))
        return started[-1]

    yield start
    for server in started:
        server.close()


def requests(folder: Path) -> list[Request]:
    """The same prompts, of the bare model and of an adapter."""
    lora = folder.parent / "lora"
    bare = [Request(f"bare {name}", ids, 5) for name, ids in PROMPTS.items()]
    return bare + [Request(f"lora {name}", ids, 5, lora, "c0ffee") for name, ids in PROMPTS.items()]


def asked(folder: Path, wanted: list[Request], *servers: StandIn, **options: Any) -> dict[str, Reply]:
    backend = "server" if servers else "transformers"
    urls = [server.url for server in servers]
    found = generate(str(folder), wanted, backend=backend, dtype="float32", servers=urls, **options)
    return {reply.key: reply for reply in found}


def test_servers_give_what_the_other_backends_give(folder: Path, served: Any) -> None:
    one, two = served(), served()
    wanted = requests(folder)
    expected, found = asked(folder, wanted, logprobs=3), asked(folder, wanted, one, two, logprobs=3)
    assert found.keys() == expected.keys()
    for key, reply in expected.items():
        its = found[key]
        assert (its.text, its.ids, its.prompt_ids) == (reply.text, reply.ids, reply.prompt_ids)
        assert (its.tokens, its.finish_reason, its.pieces) == (
            reply.tokens,
            reply.finish_reason,
            reply.pieces,
        )
        assert its.logprob == pytest.approx(reply.logprob, abs=1e-4)
        assert [sorted(step) for step in its.top] == [sorted(step) for step in reply.top]
    assert any(found[f"bare {n}"].ids != found[f"lora {n}"].ids for n in PROMPTS), (
        "the adapter changes something"
    )
    assert len(one.seen) == len(two.seen) == 4 and one.loaded == two.loaded == ["c0ffee"]


def test_what_a_server_would_take_from_the_models_folder_is_said_in_full(folder: Path, served: Any) -> None:
    server = served()
    asked(folder, requests(folder)[:1], server)
    asked(folder, requests(folder)[:1], server, temperature=0.7, top_p=0.9, seed=3)
    greedy, sampled = server.seen
    assert greedy == {
        "model": "the-model", "prompt": PROMPTS["a"], "max_tokens": 5, "temperature": 0.0, "top_p": 1.0, "top_k": 0,
        "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "logprobs": 0,
        "stop_token_ids": [1, 2], "return_token_ids": True,
    }  # fmt: skip
    assert (sampled["temperature"], sampled["top_p"]) == (0.7, 0.9) and sampled["seed"] > 0


def test_the_key_is_sent(folder: Path, served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server = served()
    monkeypatch.setenv("VLLM_API_KEY", "a-key")
    asked(folder, requests(folder)[:1], server)
    assert server.keys == {"Bearer a-key"}


def test_an_adapter_that_another_run_has_loaded_is_used(folder: Path, served: Any) -> None:
    server = served()
    its = server_engine.Server(server.url)
    server.adapters["c0ffee"] = folder.parent / "lora"
    assert its.named(requests(folder)[-1]) == "c0ffee" and server.loaded == []


def test_a_busy_server_is_asked_again(folder: Path, served: Any) -> None:
    server = served()
    server.fails = [429, 503]
    assert len(asked(folder, requests(folder)[:2], server)) == 2


def test_what_is_wrong_with_a_server_is_one_line(folder: Path, served: Any) -> None:
    bare, lora = requests(folder)[0], requests(folder)[-1]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(UserError, match=r"does not answer .*vllm serve"):
        list(generate(str(folder), [bare], backend="server", dtype="float32", servers=[nobody]))
    with pytest.raises(UserError, match=r"--enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"):
        asked(folder, [lora], served(adapters=False))
    elsewhere = Request("x", [3], 5, Path("/nowhere"), "dead")
    with pytest.raises(UserError, match=r"cannot load /nowhere .No adapter found.* same path"):
        asked(folder, [elsewhere], served())
    with pytest.raises(UserError, match="gives no token ids"):
        asked(folder, [bare], served(ids=False))
    with pytest.raises(UserError, match="gives no log-probability of some tokens"):
        asked(folder, [bare], served(logprobs=False))
    server = served()
    server.fails = [400]
    with pytest.raises(UserError, match=r"did not answer a request .busy."):
        asked(folder, [bare], server)


def test_the_addresses_reach_the_stages_and_change_no_key() -> None:
    server = ("generation.backend=server", "generation.servers=[http://a/v1]")
    one, two = experiment(*server), experiment(server[0], "generation.servers=[http://b/v1,http://c/v1]")
    steps = [answers.completions(x, None, "directharm", "dev") for x in (one, two)]
    assert steps[0].key == steps[1].key and steps[0].settings["backend"] == "server"
    assert [list(step.unkeyed.servers) for step in steps] == [["http://a/v1"], ["http://b/v1", "http://c/v1"]]
    guard = answers.verdicts(one, steps[0], "guard")
    assert guard.settings["backend"] == "vllm", "a guard that was trained here is served by nobody"


def test_a_guard_of_the_hub_may_have_servers_of_its_own() -> None:
    x = experiment(
        "judge=[llama_guard_3_8b,refusal]",
        "judge.llama_guard_3_8b.servers=[http://g/v1]",
        model="llama3.1-8b",
    )
    step = answers.verdicts(x, answers.completions(x, None, "directharm", "dev"), "llama_guard_3_8b")
    assert step.settings["backend"] == "server" and list(step.unkeyed.servers) == ["http://g/v1"]


@pytest.mark.parametrize(
    "overrides",
    [("generation.backend=server",), ("generation.servers=[http://a/v1]",)],
    ids=["none", "unused"],
)
def test_servers_and_their_backend_go_together(overrides: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"backend=server needs addresses"):
        experiment(*overrides)
    with pytest.raises(UserError, match=r"generation.servers"):
        experiment("generation.backend=server", "generation.servers=[a:8000]")
