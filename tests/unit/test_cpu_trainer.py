"""The CPU trainer's loss and gradients are TRL's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from peft.helpers import disable_input_dtype_casting
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from trl import SFTConfig, SFTTrainer

from pipeline.stages.cpu_trainer import CpuTrainer

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def trained(
    kind: type[SFTTrainer],
    folder: Path,
    *,
    plain: bool = False,
    model: PreTrainedModel | None = None,
    **options: Any,
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of three steps and the LoRA weights after them. plain: without PEFT's cast of each LoRA's input."""
    torch.manual_seed(0)
    model = model or LlamaForCausalLM(LlamaConfig(vocab_size=64, tie_word_embeddings=True, **SIZES))
    model = model.to(torch.bfloat16) if options.get("bf16") else model
    raw = Tokenizer(models.WordLevel({str(i): i for i in range(64)}, unk_token="0"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="1", eos_token="2", unk_token="0")
    rows = [
        {"input_ids": [3 + (i + j) % 60 for j in range(6 + i)], "completion_mask": [0] * 4 + [1] * (2 + i)}
        for i in range(6)
    ]
    settings = {"per_device_train_batch_size": 2, "max_steps": 3, "logging_steps": 1, "learning_rate": 1e-2}
    trainer = kind(
        model=model,
        args=SFTConfig(output_dir=str(folder), report_to="none", use_cpu=True, disable_tqdm=True,
                       gradient_checkpointing=False, completion_only_loss=True,
                       **{**settings, "bf16": False, **options}),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "down_proj"]),
    )  # fmt: skip
    with disable_input_dtype_casting(trainer.model, active=plain):
        trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return losses, {k: v.detach().clone() for k, v in trainer.model.named_parameters() if "lora" in k}


def test_the_same_losses_and_weights_as_trl(tmp_path: Path) -> None:
    ours, theirs = trained(CpuTrainer, tmp_path / "a"), trained(SFTTrainer, tmp_path / "b")
    assert len(ours[0]) == 3
    torch.testing.assert_close(torch.tensor(ours[0]), torch.tensor(theirs[0]), rtol=1e-4, atol=1e-5)
    for name, weight in theirs[1].items():
        torch.testing.assert_close(ours[1][name], weight, rtol=1e-3, atol=1e-5)


def test_the_same_under_gradient_accumulation(tmp_path: Path) -> None:
    """The divisor is the number of answer tokens over all accumulated batches, which differ in length."""
    options = {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 1}
    ours, theirs = (
        trained(CpuTrainer, tmp_path / "a", **options),
        trained(SFTTrainer, tmp_path / "b", **options),
    )
    torch.testing.assert_close(torch.tensor(ours[0]), torch.tensor(theirs[0]), rtol=1e-4, atol=1e-5)


def test_without_the_cast_of_the_inputs_every_bit_is_the_same(tmp_path: Path) -> None:
    """PEFT casts to float32 what autocast casts back to bfloat16; leaving that out is for speed alone."""
    cast = trained(CpuTrainer, tmp_path / "a", bf16=True)
    plain = trained(CpuTrainer, tmp_path / "b", bf16=True, plain=True)
    assert cast[0] == plain[0]
    for name, weight in cast[1].items():
        assert weight.dtype == torch.float32 and torch.equal(weight, plain[1][name])


def test_a_loss_in_bfloat16_is_the_same_to_its_digits(tmp_path: Path) -> None:
    ours = trained(CpuTrainer, tmp_path / "a", bf16=True)
    theirs = trained(SFTTrainer, tmp_path / "b", bf16=True)
    torch.testing.assert_close(torch.tensor(ours[0]), torch.tensor(theirs[0]), rtol=5e-3, atol=0)


def capped() -> PreTrainedModel:
    """A model that bends its logits after the output layer."""
    torch.manual_seed(0)
    more = {"head_dim": 16, "num_key_value_heads": 2, "final_logit_softcapping": 0.5}
    return Gemma2ForCausalLM(Gemma2Config(vocab_size=64, **SIZES, **more))


def test_a_model_that_bends_its_logits_is_left_to_trl(tmp_path: Path) -> None:
    ours = trained(CpuTrainer, tmp_path / "a", model=capped())
    theirs = trained(SFTTrainer, tmp_path / "b", model=capped())
    torch.testing.assert_close(torch.tensor(ours[0]), torch.tensor(theirs[0]), rtol=1e-4, atol=1e-5)
    for name, weight in theirs[1].items():
        torch.testing.assert_close(ours[1][name], weight, rtol=1e-3, atol=1e-5)
