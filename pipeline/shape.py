"""The sizes of a model, by the names that config.json gives them: what memory and time are counted from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(gt=0)]


class Shape(BaseModel):
    """A decoder with gated MLPs and grouped queries: Llama, Qwen2, Gemma2. Defaults are the commonest."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    num_key_value_heads: Count
    head_dim: Count
    vocab_size: Count
    tie_word_embeddings: bool = False
    attention_bias: bool = False  # of q, k and v

    @property
    def modules(self) -> dict[str, tuple[int, int]]:
        """(d_out, d_in) of each linear module of a layer."""
        h, i = self.hidden_size, self.intermediate_size
        q, kv = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        return {
            "q_proj": (q, h),
            "k_proj": (kv, h),
            "v_proj": (kv, h),
            "o_proj": (h, q),
            "gate_proj": (i, h),
            "up_proj": (i, h),
            "down_proj": (h, i),
        }

    @property
    def layer_parameters(self) -> int:
        """Weights of one layer, its two norms included."""
        bias = sum(self.modules[name][0] for name in ("q_proj", "k_proj", "v_proj"))
        return (
            sum(d_out * d_in for d_out, d_in in self.modules.values())
            + 2 * self.hidden_size
            + (bias if self.attention_bias else 0)
        )

    @property
    def embedding(self) -> int:
        """Weights of the embedding, which is also the output layer where they are tied."""
        return self.vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        """All weights, each once."""
        ends = self.embedding * (1 if self.tie_word_embeddings else 2)
        return ends + self.num_hidden_layers * self.layer_parameters + self.hidden_size

    def adapted(self, targets: list[str] | str) -> dict[str, tuple[int, int]]:
        """The modules of a layer that a LoRA with these `target_modules` is on; of a pattern, all of them."""
        if isinstance(targets, str):
            return self.modules
        return {name: its for name, its in self.modules.items() if name in targets}

    def lora_parameters(self, rank: int, targets: list[str] | str) -> int:
        """Weights of a LoRA on every layer."""
        one = sum(d_out + d_in for d_out, d_in in self.adapted(targets).values())
        return self.num_hidden_layers * rank * one


def of_config(config: Mapping[str, Any]) -> Shape:
    """The shape in a config.json.

    Raises:
        KeyError: it does not name its sizes as Llama's does.
    """
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    return Shape(
        hidden_size=hidden,
        intermediate_size=config["intermediate_size"],
        num_hidden_layers=config["num_hidden_layers"],
        num_attention_heads=heads,
        num_key_value_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or hidden // heads,
        vocab_size=config["vocab_size"],
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        attention_bias=bool(config.get("attention_bias", config.get("model_type") == "qwen2")),
    )
