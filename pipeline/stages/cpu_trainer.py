"""TRL's SFTTrainer with the output layer computed on answer tokens only, for CPUs.

On a GPU TRL does this itself (`add_fused_lm_head` compacts the positions where Triton runs). Elsewhere it projects every
position, and once more in the backward pass: with SmolLM2's 49,152 tokens on a 135M model that is a third of the time.
torch's own fused loss does the rest: it keeps the gradient of the hidden states and none of the logits, another eighth.
"""

from __future__ import annotations

from typing import Any

import torch
from trl import SFTTrainer

#: What a model's configuration calls a step between its output layer and the logits (Gemma 2, Granite, Cohere,
#: Falcon-H1). One under another name would go unseen.
AFTER_THE_OUTPUT_LAYER = ("final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier")


def plain_logits(causal: Any) -> bool:
    """Whether the logits are the output layer's products with frozen weights, and nothing else."""
    layer, config = causal.get_output_embeddings(), causal.config.get_text_config()
    changed = any(getattr(config, name, None) not in (None, 1, 1.0) for name in AFTER_THE_OUTPUT_LAYER)
    return type(layer) is torch.nn.Linear and not layer.weight.requires_grad and not changed


class CpuTrainer(SFTTrainer):
    """The same loss as SFTTrainer's, from fewer products (tested against it)."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean negative log-likelihood of the answer tokens; in bfloat16 the number that is logged has three digits.

        Args:
            inputs: input_ids, attention_mask and labels, each batch x length; -100 labels are ignored.
            num_items_in_batch: answer tokens over all accumulation steps, the divisor of the sum.
        """
        causal = self.accelerator.unwrap_model(model).get_base_model()
        if return_outputs or not plain_logits(causal):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        answers = inputs["labels"][:, 1:] != -100
        labels = inputs["labels"][:, 1:][answers]
        # All rows in one chunk: its own choice of their number is for accelerators, and takes twenty times as long here.
        how = torch.nn.LinearCrossEntropyOptions(
            batch_chunk_size=max(1, labels.numel()), acc_policy="accurate"
        )
        with self.accelerator.autocast():  # the model's own forward, which accelerate wraps, is not called
            hidden = causal.base_model(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
            ).last_hidden_state[:, :-1]
            layer = causal.get_output_embeddings()
            loss = torch.nn.functional.linear_cross_entropy(
                hidden[answers], layer.weight, labels, linear_bias=layer.bias, reduction="sum", options=how
            )
        return loss / (labels.numel() if num_items_in_batch is None else num_items_in_batch)
