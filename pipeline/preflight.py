"""What a run needs that this machine may lack, found out in seconds and before anything is downloaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from pipeline.artifacts import ADAPTER
from pipeline.plan import Experiment
from pipeline.precision import gpus
from pipeline.revisions import data_sets
from pipeline.settings import HubJudge, HubMember, Judge, Member
from pipeline.store import External, Step, Store
from safemerge import hub
from safemerge.errors import UserError

#: GiB per billion parameters: bfloat16 weights, plus activations and LoRA's optimiser when training, plus the KV cache.
TRAIN_GIB, SERVE_GIB, OVERHEAD_GIB = 2.4, 2.1, 3.0


def gpu_gib(parameters: float, sharded: int = 1) -> float:
    """GPU memory (GiB) that training needs on each of `sharded` devices; an estimate, on the safe side."""
    return round(parameters / sharded / 1e9 * TRAIN_GIB + OVERHEAD_GIB, 1)


def gpu_needs(x: Experiment) -> dict[str, float]:
    """GPU memory (GiB) that each stage needs on one device, by stage; an estimate. Judges count by their download."""
    config, parameters = x.config, x.config.model.parameters
    spread = config.generation.tensor_parallel_size
    needs = {
        "finetune": gpu_gib(parameters, config.train.devices if config.train.parallel == "fsdp" else 1),
        "generate": round(parameters / 1e9 * SERVE_GIB / spread + OVERHEAD_GIB, 1),
    }
    judges = [judge.download_gb for judge in config.judge.values() if isinstance(judge, HubJudge)]
    if judges:
        needs["judge"] = round(max(judges) * 1e9 / 2**30 / spread + OVERHEAD_GIB, 1)
    return needs


def disk_short(models: Sequence[tuple[str, str | None, float, bool]]) -> list[str]:
    """Whether the hub's cache has room for what is to be fetched; a tenth is left for what the run itself writes."""
    from huggingface_hub import constants

    need = 1.1 * sum(gb for _, _, gb, _ in models)
    cache = Path(constants.HF_HUB_CACHE)
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(there).free / 1e9
    return [] if free >= need else [f"{need:.0f} GB of disk ({free:.0f} GB are free in {cache}; set HF_HOME)"]


def hub_token() -> bool:
    """Whether a hub token is set in the environment or was stored by the hub's login."""
    from huggingface_hub import get_token

    return get_token() is not None


def in_hub_cache(repo: str, revision: str | None) -> bool:
    """Whether a snapshot of the model lies in the hub's local cache."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repo, "config.json", revision=revision), str)


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
        if not store.has(step) and not in_hub_cache(node.id, node.revision):
            found.append((node.id, node.revision, node.download_gb, node.gated))
    return found


def gated_data(x: Experiment, store: Store) -> list[str]:
    """The ids of gated data sets whose rows are still to be fetched."""
    if "prepare" not in x.config.stages:
        return []
    wanted = {step.settings.get("dataset") for step in x.prepared if not store.has(step)}
    return [str(its.id) for name, its in data_sets(x.config).items() if its.gated and name in wanted]


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
            lacks.append(f"a GPU with {need:.0f} GiB for {stage} ({seen})")
    lacks += gpus_short(x)
    models = hub_models(x, store) if "prepare" in config.stages else []
    lacks += disk_short(models)
    gated = [name for name, _, _, gated in models if gated] + gated_data(x, store)
    if gated and not hub_token():
        lacks.append(f"a hub token for the gated {', '.join(gated)} (set HF_TOKEN)")
    needs_hub = bool(models) or (config.data.source == "hub" and "prepare" in config.stages)
    if needs_hub and not hub.reachable():
        lacks.append(
            f"the network ({sum(gb for _, _, gb, _ in models):.0f} GB to fetch from the model hub, which does not answer)"
        )
    if config.data.source == "hub" and "prepare" in config.stages:
        place = config.data.datasets.get("safety")
        if place is None or not place.file or not Path(place.file).exists():
            lacks.append("the Bianchi safety data (GitHub only: set data.datasets.safety.file)")
    return lacks


def declared_rank(x: Experiment, role: str) -> int:
    """The LoRA rank of an adapter: what its own config says, or what it will be trained with."""
    source = x.adapters[role]
    if not isinstance(source, External):
        return int(x.config.train.lora.r)
    try:
        return int(json.loads((source.path / ADAPTER).read_text())["r"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{source.path}/adapter_config.json declares no rank r: is it a LoRA?") from error


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


def require(x: Experiment, store: Store, moving: Sequence[str] = ()) -> None:
    """Raise one line with all that is missing; nothing has been downloaded or written then.

    moving: a line for each revision that stands for no known commit (`pipeline.revisions`).
    """
    equal_ranks(x)
    lacks = missing(x, store)
    if moving:
        more = f", and {len(moving) - 1} more" if len(moving) > 1 else ""
        lacks.append(f"a commit for each revision ({moving[0]}{more})")
    if lacks:
        raise UserError(
            f"model={x.config.model.name} cannot run here, it needs " + "; ".join(lacks) + "; see make plan"
        )
