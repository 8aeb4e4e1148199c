"""The linear head on a frozen model's states: what it reads, what it says, and how it is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from data.schema import Verdict
from evaluation import probe
from safemerge.errors import UserError

WORDS = ["<pad>", "<eos>", "<unk>", *"<>", "eos", *(f"w{i}" for i in range(58))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes)).save_pretrained(path)
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(path)
    return str(path)


def test_features_are_the_states_of_the_layer_over_the_reply(folder: str) -> None:
    """Against transformers' own hidden states, pair by pair without padding."""
    pairs = [("w1 w2", "w3 w4 w5 w6"), ("w7", "w8"), ("w9 w10 w11", "w12 w13")]
    reader = probe.Reader(folder, 2, "float32")
    found = reader.features(pairs, reply_tokens=3)
    assert reader.tokens == sum(len(reader._encode(*pair, 3)[0]) for pair in pairs)
    whole = LlamaForCausalLM.from_pretrained(folder)
    for (prompt, reply), row in zip(pairs, found, strict=True):
        ids, start = reader._encode(prompt, reply, 3)
        with torch.no_grad():
            states = whole.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[2][0, start:]
        expected = torch.cat([states.mean(0), states[-1]]).numpy()
        np.testing.assert_allclose(row, expected, atol=1e-5)
    assert len(reader._encode("w1", "w3 w4 w5 w6", 3)[0]) == 5 + 3, "Request : w1 Reply : and three tokens"


def test_a_reply_cannot_spell_a_control_token(folder: str) -> None:
    reader = probe.Reader(folder, 1, "float32")
    ids, start = reader._encode("w1", "<eos> w2", 9)
    assert reader.tokenizer.eos_token_id not in ids[start:]


def test_the_head_learns_saves_and_loads(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    unsafe = rng.random(200) < 0.5
    features = rng.normal(size=(200, 8)) + 2.0 * unsafe[:, None]
    head = probe.fit(features, unsafe.tolist(), layers=2, reply_tokens=5, c=0.1)
    p = head.p_unsafe(features)
    assert ((p >= 0.5) == unsafe).mean() > 0.95
    head.save(tmp_path / "head.npz")
    again = probe.Head.load(tmp_path / "head.npz")
    np.testing.assert_array_equal(again.p_unsafe(features), p)
    assert (again.layers, again.reply_tokens, again.threshold) == (2, 5, 0.5)


def test_labels_of_one_kind_are_refused() -> None:
    with pytest.raises(UserError, match="all of one label"):
        probe.fit(np.zeros((3, 2)), [True, True, True], layers=1, reply_tokens=1, c=1.0)


@pytest.mark.parametrize(
    ("reply", "p", "expected"),
    [("no", 0.2, "safe"), ("yes", 0.6, "unsafe"), ("yes", 0.5, "unsafe"), (" ...", 0.9, "invalid")],
)
def test_a_verdict_is_safe_unsafe_or_invalid(reply: str, p: float, expected: str) -> None:
    assert probe.verdict("a", reply, p, 0.5) == Verdict("a", expected, p, category=None, raw="")


def test_a_probability_that_is_no_number_is_invalid_and_not_safe() -> None:
    found = probe.verdict("a", "yes", float("nan"), 0.5)
    assert found.verdict == "invalid" and found.p_unsafe is None and "no number" in found.raw
