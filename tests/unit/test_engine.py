"""Generation by transformers: what decides a reply, and what must not. The recipe tests ask the same of vLLM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig, PreTrainedTokenizerFast

from evaluation.engine import Request, check_fits, generate, stop_ids
from safemerge.errors import UserError
from tests.pico import VOCAB, build_model

PROMPTS = {name: [3 + i, 5 + 2 * i, 7] for i, name in enumerate("abcde")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer, models

    path = tmp_path_factory.mktemp("model")
    build_model(seed=3).save_pretrained(path)
    raw = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="w0", eos_token="w1").save_pretrained(path)
    return path


def replies(folder: Path, names: str, **options: Any) -> dict[str, tuple[list[int], str]]:
    """Token ids and finish reason by prompt."""
    requests = [Request(f"0:{name}", PROMPTS[name], 8, item=name) for name in names]
    found = generate(str(folder), requests, backend="transformers", dtype="float32", **options)
    return {reply.key[2:]: (reply.ids, reply.finish_reason) for reply in found}


def test_a_sampled_reply_depends_on_its_prompt_and_the_seed_alone(folder: Path) -> None:
    """Not on what else is asked for, or in which order."""
    every, some, one = (replies(folder, names, temperature=1.0, seed=5) for names in ("abcde", "edb", "b"))
    assert every["b"] == some["b"] == one["b"] and every["e"] == some["e"]
    assert replies(folder, "b", temperature=1.0, seed=6)["b"] != one["b"]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_reply_says_how_likely_the_model_finds_it(folder: Path, temperature: float) -> None:
    """By the model alone, whatever the temperature; batched with longer prompts."""
    import torch

    model = build_model(seed=3)
    requests = [Request(name, PROMPTS[name] * (i + 1), 5 + i) for i, name in enumerate(PROMPTS)]
    made = generate(str(folder), requests, backend="transformers", dtype="float32", temperature=temperature)
    for reply in made:
        asked = next(request for request in requests if request.key == reply.key)
        with torch.inference_mode():
            scores = model(torch.tensor([asked.prompt_ids + reply.ids])).logits[0].log_softmax(-1)
        wanted = sum(float(scores[len(asked.prompt_ids) + i - 1, t]) for i, t in enumerate(reply.ids))
        assert reply.logprob == pytest.approx(wanted, rel=1e-4) and reply.prompt_ids == asked.prompt_ids


@pytest.mark.parametrize("position", [0, 1, 2])
def test_every_eos_of_the_models_configuration_ends_a_reply(
    folder: Path, tmp_path: Path, position: int
) -> None:
    every = replies(_copy(folder, tmp_path / "endless"), "abcde", temperature=1.0)
    name, whole = next((n, ids) for n, (ids, _) in every.items() if len(set(ids[:3])) == 3 and 1 not in ids)
    stops = [VOCAB - 1, VOCAB - 2, VOCAB - 3]
    stops[position] = whole[2]
    here = _copy(folder, tmp_path / "three", eos_token_id=stops)
    assert replies(here, name, temperature=1.0)[name] == (whole[:3], "stop")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(here)
    assert stop_ids(str(here), tokenizer) == sorted({*stops, tokenizer.eos_token_id})


def test_a_model_without_a_configuration_of_its_own_stops_at_the_tokenizers_eos(
    folder: Path, tmp_path: Path
) -> None:
    here = _copy(folder, tmp_path)
    (here / "generation_config.json").unlink()
    assert stop_ids(str(here), PreTrainedTokenizerFast.from_pretrained(here)) == [1]


def test_decoding_settings_in_the_models_folder_change_nothing(folder: Path, tmp_path: Path) -> None:
    settings = {
        "eos_token_id": 2,
        "repetition_penalty": 9.0,
        "do_sample": True,
        "temperature": 0.2,
        "top_k": 1,
    }
    here = _copy(folder, tmp_path, **settings)
    assert replies(here, "abc") == replies(folder, "abc")
    sampling = {"temperature": 1.0, "seed": 2}
    assert replies(here, "abc", **sampling) == replies(folder, "abc", **sampling)


def _copy(folder: Path, tmp_path: Path, **settings: Any) -> Path:
    """The same model with another generation_config.json."""
    import shutil

    here = tmp_path / "model"
    tmp_path.mkdir(exist_ok=True)
    shutil.copytree(folder, here)
    GenerationConfig(**settings).save_pretrained(here)
    return here


def test_a_prompt_that_is_longer_than_the_model_takes_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    """It was a traceback out of the engine, after it had loaded."""
    config: dict[str, object] = {"max_position_embeddings": 1024}
    (tmp_path / "config.json").write_text(json.dumps(config))
    rows = [Request("a", [1] * 8, 8), Request("0:b", [1] * 250_000, 8, item="gsm8k/test/7")]
    for backend in ("vllm", "transformers"):
        with pytest.raises(
            UserError, match=r"gsm8k/test/7 has 250000 tokens .* takes 1024 together: shorten"
        ):
            next(generate(str(tmp_path), rows, backend=backend, dtype="float32"))
    check_fits(str(tmp_path), [Request("a", [1] * 1016, 8)])
    for stretched in ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, {"max_position_embeddings": None}):
        (tmp_path / "config.json").write_text(json.dumps(config | stretched))
        check_fits(str(tmp_path), rows)
