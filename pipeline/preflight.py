"""What a run needs that this machine may lack, found out in seconds and before anything is downloaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.artifacts import ADAPTER, model_folder
from pipeline.plan import Experiment
from pipeline.precision import gpus
from pipeline.revisions import data_sets
from pipeline.settings import HubJudge, HubMember, Judge, LocalMember, Member
from pipeline.store import External, Step, Store
from safemerge import hub
from safemerge.errors import UserError
from safemerge.files import BIN_INDEX, BIN_SINGLE, INDEX, SINGLE, is_folder, weight_map

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
