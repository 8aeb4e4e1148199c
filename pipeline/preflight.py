"""What a run needs that this machine may lack, found out in seconds and before anything is downloaded."""

from __future__ import annotations

import json
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
TRAIN_GIB, OVERHEAD_GIB = 2.4, 3.0


def gpu_gib(parameters: float) -> float:
    """GPU memory (GiB) that the most demanding stage needs; an estimate, on the safe side."""
    return round(parameters / 1e9 * TRAIN_GIB + OVERHEAD_GIB, 1)


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


def missing(x: Experiment, store: Store) -> list[str]:
    """What this machine lacks for the stages asked for, each with its remedy."""
    config, lacks = x.config, []
    wanted = set(config.stages) & {"prepare", "finetune", "generate", "judge"}
    parameters = config.model.parameters
    if parameters > 1e9 and wanted:
        need, have = gpu_gib(parameters), max((g["memory_gib"] for g in gpus()), default=0.0)
        if have < need:
            seen = f"the largest here has {have:.0f} GiB" if have else "there is none here"
            lacks.append(f"a GPU with {need:.0f} GiB ({seen})")
    models = hub_models(x, store) if "prepare" in config.stages else []
    gated = [name for name, _, _, gated in models if gated] + gated_data(x, store)
    if gated and not hub_token():
        lacks.append(f"a hub token for the gated {', '.join(gated)} (set HF_TOKEN)")
    needs_hub = bool(models) or (config.data.source == "hub" and "prepare" in config.stages)
    if needs_hub and not hub.reachable():
        lacks.append(
            f"the network ({sum(gb for _, _, gb, _ in models):.0f} GB to fetch from the model hub, which does not answer)"
        )
    if any(not store.has(step) for step in x.trained):  # later it is said when they are asked
        lacks += [f"a server that answers ({line})" for line in silent(x)]
    if config.data.source == "hub" and "prepare" in config.stages:
        place = config.data.datasets.get("safety")
        if place is None or not place.file or not Path(place.file).exists():
            lacks.append("the Bianchi safety data (GitHub only: set data.datasets.safety.file)")
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
