"""The steps that an experiment is made of, each from its part of the config. `pipeline.plan` puts them together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from data import loading
from pipeline import content, judge_settings, settings
from pipeline.artifacts import ADAPTER
from pipeline.settings import Config
from pipeline.stage_settings import (
    BenchmarkItems,
    Finetune,
    GgufModel,
    HubModel,
    LabelledPairs,
    LocalModel,
    MergedModel,
    ProbeHead,
    ScratchModel,
    Settings,
    TrainingRows,
)
from pipeline.store import External, Step
from pipeline.unkeyed import NOTHING, Folder, Origin, Share
from safemerge.errors import UserError
from safemerge.peft_config import check_folder
from safemerge.selection import Again

#: TRL's names of the two arguments whose product is the batch.
PER_DEVICE, ACCUMULATION = "per_device_train_batch_size", "gradient_accumulation_steps"
#: TRL's name of what saves memory and changes no result.
CHECKPOINTING = "gradient_checkpointing"
#: Arguments of TRL's with which ranks would train on other batches, or with another loss, than one process.
ONE_DEVICE_ONLY = {
    "dataloader_drop_last": True,
    "average_tokens_across_devices": False,
    "train_sampling_strategy": "batch_rebalance",
}


def training_rows(
    config: Config, name: str, dataset: str, limit: int | None, part: str | None = None
) -> Step:
    """A training set: `limit` rows (None: all) of a data set, or of one of its disjoint parts. `name` is for the screen."""
    source = config.data.where()
    its = TrainingRows(dataset, limit, part, loading.fingerprint(dataset, split="train", source=source))
    return Step("prepare", f"rows for {name}", its.keyed(), {}, Origin(source))


def second_rows(config: Config, again: Again) -> Step:
    """The rows of a second fine-tuning."""
    return training_rows(config, "the second fine-tuning", again.dataset, again.limit)


def items(config: Config, dataset: str) -> Step:
    """A benchmark's prompts with references: both halves, or one where nothing is selected."""
    source = config.data.where()
    limit = config.data.limits.items.get(dataset)
    fingerprint = loading.fingerprint(dataset, split="test", source=source)
    its = BenchmarkItems(dataset, limit, fingerprint, selecting=config.selection.grid != "none")
    return Step("prepare", f"prompts of {dataset}", its.keyed(), {}, Origin(source))


def labelled_pairs(split: str, limit: int | None = None) -> Step:
    """Labelled (prompt, reply) pairs for the judges: a part of `data.guard.SPLITS`."""
    its = LabelledPairs(split, limit, loading.fingerprint("guard", split=split))
    return Step("prepare", f"labelled pairs, {split}", its.keyed())


def probe(
    config: Config, name: str, judge: judge_settings.ProbeJudge, base: Step, pairs: Step, tuning: Step
) -> Step:
    """The linear head of a judge that reads a frozen model's hidden states, with its threshold."""
    of_head = judge.model_dump(include={"depth", "c", "reply_tokens", "threshold"})
    its = ProbeHead(target=judge.target_, dtype=config.generation.dtype, **of_head)
    inputs = {"model": base, "pairs": pairs, "tuning": tuning}
    return Step("prepare", f"{name} head", its.keyed(), inputs)


def member(name: str, model: settings.Member) -> Step:
    """A model folder: from the hub, from a packaged GGUF, from scratch or of your own."""
    its: Settings
    unkeyed = NOTHING
    match model:
        case settings.HubMember():
            its = HubModel(model.id, model.revision)
        case settings.GgufMember():
            path = content.package_file(model.package, model.file)
            its = GgufModel(model.package, model.file, content.file_digest(path) if path else "not installed")
        case settings.LocalMember():
            folder = Path(model.path).expanduser().absolute()
            its, unkeyed = LocalModel(content.folder_digest(folder)), Folder(str(folder))
        case settings.ScratchMember():
            from pipeline.stages.scratch import fingerprint

            its = ScratchModel(lessons=fingerprint(), **model.model_dump(exclude={"kind"}))
        case settings.TunedMember():
            raise ValueError("a tuned member is made by a training, not by this step")
    return Step("prepare", f"{name} model", its.keyed(), {}, unkeyed)


def merged(name: str, model: Step, adapter: Step) -> Step:
    """A model with a LoRA folded into it."""
    return Step("prepare", name, MergedModel().keyed(), {"model": model, "adapter": adapter})


def lora(
    config: Config,
    role: str,
    model: Step,
    rows: Mapping[str, Step | External],
    section: settings.Training,
    seed: int,
) -> Step:
    """A training. All roles share one stage; they differ in rows, model and the arguments that `section` overrides.

    rows: by role; an `adapter` among them is what the training starts from.

    Raises:
        UserError: the batch cannot be shared among `train.devices`, or an argument forbids it.
    """
    args = {**config.train.args, **section.args}
    size, steps = (args.pop(key, 1) for key in (PER_DEVICE, ACCUMULATION))
    checkpointing = bool(args.pop(CHECKPOINTING, True))  # TRL's default
    its = Finetune(
        role=role,
        lora=config.train.lora.model_dump(),
        dtype=config.train.dtype,
        batch_size=size * steps,
        args={**args, CHECKPOINTING: False},  # whatever it is: so the keys of trainings without it stay
        seed=seed,
        system_prompt=config.model.system_prompt,
    )
    share = replace(
        shared(size, steps, config.train.devices),
        gradient_checkpointing=checkpointing,
        parallel=config.train.parallel,
    )
    for name, value in ONE_DEVICE_ONLY.items():
        if share.devices > 1 and args.get(name) == value:
            raise UserError(
                f"train.args.{name}={value} trains on other batches where devices share them: leave it out, or set "
                f"train.devices=1 instead of {share.devices}"
            )
    return Step("finetune", f"{role} LoRA", its.keyed(), {"model": model, **rows}, share)


def shared(size: int, steps: int, devices: int) -> Share:
    """A batch of size x steps rows shared among devices so that it stays the same.

    Raises:
        UserError: it cannot be shared evenly.
    """
    if steps % devices == 0:
        return Share(devices, size, steps // devices)
    if (size * steps) % devices == 0:
        part = size * steps // devices
        fits = max(n for n in range(1, size + 1) if part % n == 0)
        return Share(devices, fits, part // fits)
    raise UserError(
        f"train.devices={devices} cannot share a batch of {size * steps} rows evenly: change train.devices, "
        f"train.args.{PER_DEVICE}={size} or train.args.{ACCUMULATION}={steps}"
    )


def external(name: str, path: str | None) -> External | None:
    """An adapter of the user's own in place of a trained one; None without a path.

    Raises:
        UserError: no LoRA of PEFT's in that folder, or one that cannot be merged.
    """
    if path is None:
        return None
    folder = Path(path)
    if not (folder / ADAPTER).is_file():
        raise UserError(
            f"{name}={path}: no PEFT adapter there (adapter_config.json is missing); give the adapter's folder"
        )
    try:
        check_folder(f"{name}={path}", folder)
    except UserError as error:
        raise UserError(str(error) if str(error).startswith(name) else f"{name}={path}: {error}") from error
    if not any((folder / file).is_file() for file in ("adapter_model.safetensors", "adapter_model.bin")):
        raise UserError(
            f"{name}={path}: no adapter_model.safetensors there; was the adapter saved after training?"
        )
    return External(name, folder)
