"""One LoRA: task, safety, SafeInstruct, alignment and guard differ in their data only. TRL's SFTTrainer with PEFT.

A second fine-tuning goes on from an adapter that is there, repaired perhaps, which is an input then.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data.chat import Encoded, example_ids
from evaluation.guard_format import guard_answer, small_guard_prompt
from pipeline import artifacts
from pipeline.artifacts import LOG, LabelRow, Labels, model_folder
from pipeline.progress import report
from pipeline.stage_settings import Finetune
from pipeline.steps import ACCUMULATION, CHECKPOINTING, PER_DEVICE
from pipeline.unkeyed import Share
from pipeline.worker import Job
from safemerge.errors import UserError
from safemerge.peft_config import CONFIG


def load_pairs(inputs: dict[str, Path]) -> list[tuple[str, str]]:
    """(prompt, response) of every data input, in the order of their names."""
    pairs: list[tuple[str, str]] = []
    for role in sorted(set(inputs) - {"model", "adapter"}):
        if role == "guard":
            for row in artifacts.labelled_pairs(inputs[role]):
                question = small_guard_prompt(row.prompt, row.response)
                pairs.append((question, guard_answer(row.label, row.category)))
        else:
            pairs += [(row.prompt, row.response) for row in artifacts.examples(inputs[role])]
    return pairs


def encode(
    tokenizer: Any, pairs: list[tuple[str, str]], system: str | None, max_length: int
) -> list[Encoded]:
    """Encode the pairs, leaving out those too long: cut ones would teach the model never to stop.

    Raises:
        UserError: more than a twentieth is too long for max_length.
    """
    encoded = [example_ids(tokenizer, prompt, response, system=system) for prompt, response in pairs]
    fitting = [e for e in encoded if len(e.input_ids) <= max_length]
    if len(fitting) < 0.95 * len(encoded):
        longest = max(len(e.input_ids) for e in encoded)
        raise UserError(
            f"{len(encoded) - len(fitting)} of {len(encoded)} training rows are longer than max_length={max_length} "
            f"(the longest has {longest} tokens); raise train.args.max_length"
        )
    return fitting


def check_labels(trainer: Any, tokenizer: Any, encoded: list[Encoded]) -> list[LabelRow]:
    """Decode what the first batch is trained on; each row must be one of `encoded`, with the loss where its mask says.

    Raises:
        UserError: a row that is none of them, or a loss on the prompt, on nothing, or on a part of the answer or its EOS.
    """
    masks = {tuple(row.input_ids): row.completion_mask for row in encoded}
    batch = next(iter(trainer.get_train_dataloader()))
    joined = "the trainer's first batch holds rows that are none of the training rows; leave packing and padding_free off"
    if "attention_mask" not in batch:
        raise UserError(joined)
    fields = (batch[name].tolist() for name in ("input_ids", "attention_mask", "labels"))
    shown = []
    for every, used, covered in zip(*fields, strict=True):
        ids = [token for token, its in zip(every, used, strict=True) if its]
        labels = [label for label, its in zip(covered, used, strict=True) if its]
        if ids == getattr(trainer, "blank", None):
            continue
        mask = masks.get(tuple(ids))
        if mask is None:
            raise UserError(joined)
        if labels != [token if its else -100 for token, its in zip(ids, mask, strict=True)]:
            raise UserError(
                f"the loss covers {sum(label != -100 for label in labels)} tokens of a training row where its answer and "
                f"EOS have {sum(mask)}, or others of them; check train.args and the version of trl"
            )
        start = mask.count(0)
        shown.append(LabelRow(tokenizer.decode(ids[:start]), tokenizer.decode(ids[start:])))
    return shown


def check_targets(modules: Sequence[str], targets: list[str] | str) -> None:
    """PEFT is content where one of several names is found, and adapts nothing for the others.

    Args:
        modules: the model's, by their full names.
        targets: the names, or a pattern, which PEFT looks at by itself.

    Raises:
        UserError: one of the names is that of no module, or of the output layer, whose weights TRL's loss reads directly.
    """
    if not isinstance(targets, str) and any(name.rpartition(".")[2] == "lm_head" for name in targets):
        raise UserError(
            "train.lora.target_modules: TRL trains no LoRA on lm_head, the output layer: leave it out"
        )
    for target in [] if isinstance(targets, str) else targets:
        if not any(name == target or name.endswith(f".{target}") for name in modules):
            kinds = sorted({name.rpartition(".")[2] for name in modules if name.endswith("_proj")})
            raise UserError(
                f"train.lora.target_modules: the model has no module {target}; it has {', '.join(kinds)} and others"
            )


def last_checkpoint(folder: Path) -> str | None:
    """The latest whole checkpoint. The trainer's state is written last: without it the process died while writing."""
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None


def train(job: Job, share: tuple[int, int]) -> None:
    """Train one adapter into `job.output`; goes on from the last checkpoint when there is one.

    Args:
        share: (position, number) of this job among those of the process, for the progress bar.
    """
    import torch
    from datasets import Dataset
    from peft import LoraConfig, PeftModel
    from peft.helpers import disable_input_dtype_casting
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from pipeline.stages.cpu_trainer import CpuTrainer
    from pipeline.stages.ranks import RankTrainer

    class Progress(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            loss = next((row["loss"] for row in reversed(state.log_history) if "loss" in row), None)
            note = job.name if loss is None else f"{job.name}, loss {loss:.2f}"
            report(share[0] * state.max_steps + state.global_step, share[1] * state.max_steps, note)

    settings = Finetune(**job.settings)
    batch = job.beside(Share)
    args = settings.args | {PER_DEVICE: batch.rows, ACCUMULATION: batch.accumulation}
    args[CHECKPOINTING] = batch.gradient_checkpointing
    folder = model_folder(job.inputs["model"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = (
            tokenizer.eos_token
        )  # the loss follows completion_mask, so a padded EOS is never unlearned
    pairs = load_pairs(job.inputs)
    encoded = encode(tokenizer, pairs, settings.system_prompt, args["max_length"])
    rows = Dataset.from_list(
        [{"input_ids": e.input_ids, "completion_mask": e.completion_mask} for e in encoded]
    )
    cuda = torch.cuda.is_available()
    # The frozen weights in this dtype, LoRA's own in float32 (PEFT's default). V does not suffer: the alignment LoRA is
    # folded into float32 weights.
    dtype = settings.dtype
    # torch's fused attention is slow backwards on a CPU in bfloat16: 9 ms a layer for 528 tokens, a sixth of the step.
    attention = {} if cuda else {"attn_implementation": "eager"}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), **attention)
    check_targets([name for name, _ in model.named_modules()], settings.lora["target_modules"])
    config = SFTConfig(
        output_dir=str(job.output / "checkpoints"),
        seed=settings.seed,
        data_seed=settings.seed,
        completion_only_loss=True,
        save_strategy="steps",
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=not cuda,
        bf16=dtype == "bfloat16",
        fp16=dtype == "float16",
        ddp_find_unused_parameters=False,
        **args,
    )
    working = config.world_size * max(1, config.n_gpu)
    if working != batch.devices:  # the batch would be another one, under the same key
        raise RuntimeError(f"{working} devices train where the batch was shared among {batch.devices}")
    torch.manual_seed(settings.seed)  # LoRA's A is drawn when the trainer wraps the model
    if "adapter" in job.inputs:
        model = PeftModel.from_pretrained(model, str(job.inputs["adapter"]), is_trainable=True)
    alone = SFTTrainer if cuda else CpuTrainer
    trainer = (alone if batch.devices == 1 else RankTrainer)(
        model=model,
        args=config,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=None if "adapter" in job.inputs else LoraConfig(task_type="CAUSAL_LM", **settings.lora),
        callbacks=[Progress()],
    )
    if batch.parallel == "fsdp" and batch.devices > 1 and not trainer.is_fsdp_enabled:
        raise RuntimeError("accelerate has not sharded the model: it does so on GPUs only")
    labels = check_labels(trainer, tokenizer, encoded)
    # PEFT casts the input of each LoRA to float32, and autocast back to bfloat16: the same values for a tenth of the step.
    with disable_input_dtype_casting(trainer.model, active=dtype != "float32"):
        trainer.train(resume_from_checkpoint=last_checkpoint(job.output / "checkpoints"))
    whole = (
        trainer.accelerator.get_state_dict(trainer.model) if trainer.is_fsdp_enabled else None
    )  # by all ranks
    if not trainer.accelerator.is_main_process:
        return
    job.count_tokens(round(trainer.state.epoch * sum(len(e.input_ids) for e in encoded)))
    trainer.model.save_pretrained(job.output, state_dict=whole)
    in_order(job.output / CONFIG)
    log = [row for row in trainer.state.log_history if "loss" in row]
    # Sorted: rows that were read from a checkpoint have their names in another order.
    (job.output / LOG).write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in log))
    Labels(len(encoded), len(pairs) - len(encoded), tokenizer.eos_token, labels).write(job.output)
    shutil.rmtree(job.output / "checkpoints", ignore_errors=True)


def in_order(path: Path) -> None:
    """Sort the modules that an adapter's config names: PEFT writes a set, in an order that no two processes share."""
    config = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


@contextlib.contextmanager
def seen_gpus(devices: int) -> Iterator[None]:
    """One process sees one GPU: the Trainer would give each that it sees a batch of its own."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    if devices == 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = "0" if before is None else before.split(",")[0]
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def run(jobs: list[Job]) -> None:
    """Train every job's adapter, one after the other."""
    with seen_gpus(jobs[0].beside(Share).devices):
        for position, job in enumerate(jobs):
            with job.finishing():
                train(job, (position, len(jobs)))
            gc.collect()
