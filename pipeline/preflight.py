"""What a run needs that this machine may lack, found out in seconds and before anything is downloaded."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from data import github, loading
from data.catalogue import find
from pipeline.artifacts import ADAPTER, model_folder
from pipeline.budget import budget, work
from pipeline.judge_settings import HubJudge, Judge
from pipeline.needs import needs
from pipeline.plan import Experiment
from pipeline.precision import gpus
from pipeline.revisions import data_sets
from pipeline.settings import HubMember, LocalMember, Member
from pipeline.stage_settings import BenchmarkItems, TrainingRows, of_prepare
from pipeline.store import External, Step, Store
from safemerge import hub, hub_model
from safemerge.errors import UserError
from safemerge.files import BIN_INDEX, BIN_SINGLE, INDEX, SINGLE, is_folder, read_json, weight_map
from safemerge.peft_config import RANK

GPU_STAGES = ("finetune", "generate", "judge")


def gpu_needs(x: Experiment) -> dict[str, float]:
    """GPU memory (GiB) that each stage needs at least on each device, by stage (`pipeline.needs`)."""
    return {stage: round(need.gib, 1) for stage, need in needs(x).items() if stage in GPU_STAGES}


def disk_short(models: Sequence[tuple[str, str | None, float, bool]]) -> list[str]:
    """Whether the hub's cache has room for what is to be fetched; a tenth is left for what the run itself writes."""
    from huggingface_hub import constants

    need = 1.1 * sum(gb for _, _, gb, _ in models)
    cache = Path(constants.HF_HUB_CACHE)
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(there).free / 1e9
    return [] if free >= need else [f"{need:.0f} GB of disk ({free:.0f} GB are free in {cache}; set HF_HOME)"]


def store_short(x: Experiment) -> list[str]:
    """Whether the store has room for every adapter of the grid, the replies, and models that are made here."""
    made = [
        m for m in (x.config.model.base, x.config.model.aligned) if not isinstance(m, HubMember | LocalMember)
    ]
    need = budget([(x, work(x))]).store_gb + 4e-9 * x.config.model.parameters * len(made)
    there = Path(x.config.store).absolute()
    there = next(folder for folder in (there, *there.parents) if folder.exists())
    free = shutil.disk_usage(there).free / 1e9
    said = f"{need:.1f} GB of disk for the store ({free:.1f} GB are free in {there}; set store=DIR)"
    return [] if free >= need else [said]


def hub_token() -> bool:
    """Whether a hub token is set in the environment or was stored by the hub's login."""
    from huggingface_hub import get_token

    return get_token() is not None


def hub_models(x: Experiment, store: Store) -> list[tuple[str, str | None, float, bool]]:
    """(id, revision, GB, gated) of the hub models that neither the store nor the hub's cache holds."""
    config = x.config
    nodes: list[tuple[Member | Judge, Step]] = [
        (config.model.base, x.base),
        (config.model.aligned, x.aligned),
    ]
    nodes += [(config.judge[name], step) for name, step in x.judge_models.items()]
    found = []
    for node, step in nodes:
        if not isinstance(node, HubMember | HubJudge):
            continue
        if not store.has(step) and not hub_model.cached(hub.Repo(node.id, node.revision)):
            found.append((node.id, node.revision, node.download_gb, node.gated))
    return found


def gated_data(x: Experiment, store: Store) -> list[str]:
    """The ids of gated data sets whose rows are still to be fetched."""
    if "prepare" not in x.config.stages:
        return []
    wanted = {step.settings.get("dataset") for step in x.prepared if not store.has(step)}
    return [str(its.id) for name, its in data_sets(x.config).items() if its.gated and name in wanted]


def rows_to_fetch(x: Experiment, store: Store, github: bool) -> list[str]:
    """The data sets, of GitHub or else of the hub, whose rows neither the store nor a cache holds."""
    config, source = x.config, x.config.data.where()
    if config.data.source != "hub" or "prepare" not in config.stages:
        return []
    found = set()
    for step in x.prepared:
        its = of_prepare(dict(step.settings))
        if not isinstance(its, TrainingRows | BenchmarkItems) or store.has(step):
            continue
        split = "train" if isinstance(its, TrainingRows) else "test"
        on_github = find(its.dataset, source).github is not None
        if on_github is github and not loading.at_hand(its.dataset, split=split, source=source):
            found.add(its.dataset)
    return sorted(found)


def gpus_short(x: Experiment) -> list[str]:
    """The settings that ask for more GPUs than there are. Without any, ranks and engines share the processor."""
    config, here = x.config, len(gpus())
    engines = config.generation.tensor_parallel_size * config.generation.data_parallel_size
    asked = []
    if "finetune" in config.stages:
        asked.append((config.train.devices, f"train.devices={config.train.devices}"))
    if {"generate", "judge"} & set(config.stages):
        sizes = ("tensor_parallel_size", "data_parallel_size")
        named = " and ".join(f"generation.{size}={getattr(config.generation, size)}" for size in sizes)
        asked.append((engines, named))
    lacks = [f"{number} GPUs for {setting} ({here} here)" for number, setting in asked if 0 < here < number]
    if "finetune" in config.stages and config.train.parallel == "fsdp" and not here:
        lacks.append("GPUs for train.parallel=fsdp (there is none here; accelerate shards on GPUs only)")
    return lacks


def _only(needs: dict[str, float], stages: Sequence[str]) -> dict[str, float]:
    return {stage: need for stage, need in needs.items() if stage in stages}


def missing(x: Experiment, store: Store) -> list[str]:
    """What this machine lacks for the stages asked for, each with its remedy."""
    config, lacks = x.config, []
    # `prepare` alone only fetches, but what it fetches is for the others.
    wanted = gpu_needs(x) if "prepare" in config.stages else _only(gpu_needs(x), config.stages)
    if config.model.parameters > 1e9 and wanted:
        stage, need = max(wanted.items(), key=lambda item: item[1])
        have = max((g["memory_gib"] for g in gpus()), default=0.0)
        if have < need:
            seen = f"the largest here has {have:.0f} GiB" if have else "there is none here"
            lacks.append(f"a GPU with {math.ceil(need)} GiB for {stage} ({seen})")
    lacks += gpus_short(x)
    models = hub_models(x, store) if "prepare" in config.stages else []
    lacks += disk_short(models)
    if set(config.stages) - {"report"} and any(not store.has(step) for step in x.trained):
        lacks += store_short(x)
    gated = [name for name, _, _, gated in models if gated] + gated_data(x, store)
    if gated and not hub_token():
        lacks.append(f"a hub token for the gated {', '.join(gated)} (set HF_TOKEN)")
    if not hub.reachable():
        rows = rows_to_fetch(x, store, github=False)
        if models or rows:
            what = [f"{sum(gb for _, _, gb, _ in models):.0f} GB"] * bool(models) + rows
            lacks.append(
                f"the network ({', '.join(what)} to fetch from the model hub, which does not answer)"
            )
    if (rows := rows_to_fetch(x, store, github=True)) and not github.reachable():
        files = ", ".join(f"{find(name, config.data.where()).github}" for name in rows)
        lacks.append(f"GitHub, which does not answer (get {files} and set data.datasets.{rows[0]}.file=PATH)")
    if any(not store.has(step) for step in x.trained):  # later it is said when they are asked
        lacks += [f"a server that answers ({line})" for line in silent(x)]
    return lacks


def silent(x: Experiment) -> list[str]:
    """What is wrong with each server that the stages asked for would ask and that does not answer."""
    judges = [judge for judge in x.config.judge.values() if isinstance(judge, HubJudge)]
    wanted = x.config.generation.servers if "generate" in x.config.stages else []
    wanted = [*wanted, *(url for judge in judges for url in judge.servers if "judge" in x.config.stages)]
    found = []
    for url in wanted:
        from evaluation.server_engine import Server

        try:
            Server(url).client.close()
        except UserError as error:
            found.append(str(error))
    return found


def declared_rank(x: Experiment, role: str) -> int:
    """The LoRA rank of an adapter: what its own config says, or what it will be trained with."""
    source = x.adapters[role]
    if not isinstance(source, External):
        return int(x.config.train.lora.r)
    return int(read_json(source.path / ADAPTER).get("r", RANK))


def equal_ranks(x: Experiment) -> None:
    """The merges that add A and B apart need adapters of one rank; better said now than after the training.

    Raises:
        UserError: a method asks for such a merge of adapters whose ranks differ.
    """
    apart = {p.method for p in x.points if p.repair.kind == "blend" and p.repair.combine != "exact"}
    if not apart:
        return
    task, safety = (declared_rank(x, role) for role in ("task", "safety"))
    if task != safety:
        raise UserError(
            f"the task adapter has rank {task} and the safety adapter rank {safety}: {', '.join(sorted(apart))} with a "
            "combine other than exact needs equal ranks; set train.lora.r to that of the adapter you have, or "
            "method=[aligned,finetuned,safelora,safemerge]"
        )


def writable(x: Experiment) -> None:
    """The folders that are written to can be; nothing is created for it.

    Raises:
        UserError: one of them, or the nearest folder above it, is none that can be written to.
    """
    for name, given in (("store", x.config.store), ("runs", x.config.runs)):
        if "\0" in given:
            raise UserError(f"{name}={given!r} holds a NUL: give the path of a folder")
        place = Path(given).absolute()
        while not os.path.lexists(place):
            place = place.parent
        fits = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
        if not fits:
            kind = "is read-only or not yours" if place.is_dir() else "is no folder"
            raise UserError(
                f"{name}={given} cannot be written: {place} {kind}; set {name}=DIR to a folder that can"
            )


def own_models(x: Experiment) -> None:
    """Models of the user's own have one set of weights each, which transformers and vLLM both take.

    Raises:
        UserError: there are none or two, or an index without its shards, which vLLM trips over.
    """
    for model in (x.config.model.base, x.config.model.aligned):
        if not isinstance(model, LocalMember):
            continue
        single, _ = weight_map(model.path)
        stale = {SINGLE: INDEX, BIN_SINGLE: BIN_INDEX}.get(single or "", "")
        if (Path(model.path).expanduser() / stale).is_file():
            raise UserError(
                f"{model.path} holds {single} and a {stale} whose shards are gone, with which vLLM fails: delete {stale}"
            )


def own_adapters(x: Experiment, store: Store) -> None:
    """Adapters of the user's own are plain LoRAs of the aligned model, as far as can be told before it is there.

    Raises:
        UserError: one is not, or carries embeddings that the engine would ignore.
    """
    own = [its for role, its in x.adapters.items() if isinstance(its, External) and x.needs(role)]
    if not own:
        return
    from safemerge.adapters import load_adapter
    from safemerge.checkpoints import Checkpoint
    from safemerge.fit import fitted
    from safemerge.identity import check_name

    base, aligned = (
        _place(m, s, store) for m, s in ((x.config.model.base, x.base), (x.config.model.aligned, x.aligned))
    )
    for source in own:
        adapter = load_adapter(source.path)
        if is_folder(aligned):
            adapter = fitted(adapter, Checkpoint(base) if base else None, Checkpoint(aligned))
        elif adapter.base and aligned:
            check_name(adapter, base, aligned)
        if is_folder(aligned) and adapter.embeddings:
            raise UserError(
                f"{source.name}={source.path} carries embeddings of another vocabulary than the model's, which vLLM does "
                "not serve: train it without new tokens, or repair it with `safemerge repair --export-model`"
            )


def _place(model: Member, step: Step, store: Store) -> str:
    """Where a model lies, or its id on the hub; empty if it is still to be made."""
    if store.has(step):
        return model_folder(store.path(step))
    if isinstance(model, HubMember):
        return f"{model.id}@{model.revision}" if model.revision else str(model.id)
    return model.path if isinstance(model, LocalMember) else ""


def require(x: Experiment, store: Store, moving: Sequence[str] = ()) -> None:
    """Raise one line with all that is missing; nothing has been downloaded or written then.

    moving: a line for each revision that stands for no known commit (`pipeline.revisions`).
    """
    writable(x)
    equal_ranks(x)
    own_models(x)
    own_adapters(x, store)
    lacks = missing(x, store)
    if moving:
        more = f", and {len(moving) - 1} more" if len(moving) > 1 else ""
        lacks.append(f"a commit for each revision ({moving[0]}{more})")
    if lacks:
        raise UserError(
            f"model={x.config.model.name} cannot run here, it needs " + "; ".join(lacks) + "; see make plan"
        )
