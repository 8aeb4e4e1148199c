"""The steps that ask an adapter, judge its answers, and compare the engine that wrote them with transformers."""

from __future__ import annotations

from typing import Any

from evaluation.likelihood import OPENINGS
from evaluation.run_file import MEASURED, HalfName, Role
from pipeline import judge_settings
from pipeline.config import locate
from pipeline.content import wording
from pipeline.judge_stage_settings import (
    GuardJudge,
    GuardThreshold,
    Judge,
    PhrasesJudge,
    ProbeJudge,
    ServerJudge,
)
from pipeline.plan import Experiment, Source
from pipeline.stage_settings import Generate, Likelihood, Parity
from pipeline.store import Step
from pipeline.unkeyed import NOTHING, Asking, Engine

#: Whose refusal says something: of an over-refusal set, the benign prompts.
LABELS: dict[Role, str] = {"utility": "", "harm": "harmful", "over_refusal": "benign"}


def completions(
    experiment: Experiment,
    adapter: Source | None,
    benchmark: str,
    half: HalfName,
    system_prompt: str | None = None,
) -> Step:
    """Generates one half of a benchmark's completions with one adapter (None: the aligned model itself).

    system_prompt: in place of the model's own; likewise below.
    """
    config = experiment.config
    decoding, sampled = config.generation, config.generation.temperature > 0
    its = Generate(
        backend=decoding.backend,
        dtype=decoding.dtype,
        max_tokens=config.reply_limit(benchmark),
        half=half,
        system_prompt=system_prompt or config.model.system_prompt,
        temperature=decoding.temperature,
        top_p=decoding.top_p if sampled else None,
        seed=decoding.seed if sampled else None,
    )
    inputs: dict[str, Source] = {"model": experiment.aligned, "items": experiment.items[benchmark]}
    if adapter is not None:
        inputs["adapter"] = adapter
    return Step("generate", benchmark, its.keyed(), inputs, _engine(experiment, decoding.servers))


def _engine(experiment: Experiment, servers: list[str]) -> Engine:
    its = experiment.config.generation
    return Engine(
        its.max_num_seqs,
        its.max_loras,
        its.gpu_memory_utilization,
        its.tensor_parallel_size,
        its.data_parallel_size,
        servers,
    )


def parity(
    experiment: Experiment,
    adapter: Source | None,
    replies: list[tuple[str, Step]],
    system_prompt: str | None = None,
) -> Step:
    """Compares the engine's completions with transformers, for one adapter; `replies` by benchmark."""
    config = experiment.config
    draw = adapter.key if adapter else "bare"  # each adapter is asked about other prompts
    its = Parity(
        config.generation.dtype,
        system_prompt or config.model.system_prompt,
        prompts_per_benchmark=2,
        draw=draw,
    )
    inputs: dict[str, Source] = {"model": experiment.aligned, **{f"replies/{b}": s for b, s in replies}}
    if adapter is not None:
        inputs["adapter"] = adapter
    return Step("parity", adapter.name if adapter else "aligned", its.keyed(), inputs)


def measures(
    experiment: Experiment,
    adapter: Source | None,
    benchmark: str,
    half: HalfName,
    system_prompt: str | None = None,
) -> Step:
    """What one adapter finds likely on one half of a benchmark's prompts: the answers, or refusals."""
    config = experiment.config
    measure = MEASURED[config.benchmark[benchmark].role]
    its = Likelihood(
        measure=measure,
        openings=[] if measure == "reference_bits" else list(OPENINGS),
        half=half,
        label=LABELS[config.benchmark[benchmark].role],
        prompts=config.likelihood.prompts,
        dtype=config.generation.dtype,
        system_prompt=system_prompt or config.model.system_prompt,
    )
    inputs: dict[str, Source] = {"model": experiment.aligned, "items": experiment.items[benchmark]}
    if adapter is not None:
        inputs["adapter"] = adapter
    return Step("likelihood", f"{measure} on {benchmark}", its.keyed(), inputs)


def verdicts(experiment: Experiment, replies: Step, name: str) -> Step:
    """One judge reads one file of completions (or the held-out pairs)."""
    config = experiment.config
    judge = config.judge[name]
    inputs: dict[str, Source] = {"replies": replies}
    if "items" in replies.inputs:
        inputs["items"] = replies.inputs["items"]
    its: Judge
    unkeyed = NOTHING
    match judge:
        case judge_settings.PhrasesJudge():
            its = PhrasesJudge(judge.target_, wording(locate(judge.target_)))
        case judge_settings.ProbeJudge():
            its = ProbeJudge()
            inputs |= {"model": experiment.base, "head": experiment.probes[name]}
        case judge_settings.ServerJudge():
            words = wording(locate(judge.target_))
            its = ServerJudge(judge.target_, words, judge.id, judge.base_url, judge.max_tokens)
            unkeyed = Asking(judge.api_key_env, judge.attempts, judge.parallel, judge.timeout_s, *judge.price)
        case judge_settings.TrainedJudge() | judge_settings.HubJudge():
            tuned = threshold(experiment, name)
            fixed = None if tuned else float(judge.threshold)
            its = GuardJudge(**_guard(experiment, judge), threshold=fixed)
            inputs["model"] = experiment.judge_models[name]
            inputs |= {"threshold": tuned} if tuned else {}
            unkeyed = _engine(experiment, _servers(judge))
    return Step("judge", f"{name} on {replies.name}", its.keyed(), inputs, unkeyed)


def threshold(experiment: Experiment, name: str) -> Step | None:
    """Sets a guard's threshold on the tuning pairs; None for a judge with a fixed one, or whose head has it."""
    judge = experiment.config.judge[name]
    if not isinstance(judge, judge_settings.TrainedJudge | judge_settings.HubJudge) or not judge.calibrated:
        return None
    its = GuardThreshold(**_guard(experiment, judge))
    inputs: dict[str, Source] = {"model": experiment.judge_models[name], "tuning": experiment.tuning}
    unkeyed = _engine(experiment, _servers(judge))
    return Step("judge", f"threshold of {name}", its.keyed(), inputs, unkeyed)


def _servers(judge: judge_settings.TrainedJudge | judge_settings.HubJudge) -> list[str]:
    """That serve a guard; one that was trained here runs here."""
    return judge.servers if isinstance(judge, judge_settings.HubJudge) else []


def _guard(
    experiment: Experiment, judge: judge_settings.TrainedJudge | judge_settings.HubJudge
) -> dict[str, Any]:
    """How a guard is asked, whatever is done with its answers."""
    config = experiment.config
    backend = config.generation.backend
    if backend == "server" or _servers(judge):  # those of the model that is evaluated do not serve a guard
        backend = "server" if _servers(judge) else "vllm"
    return {
        "target": judge.target_,
        "wording": wording(locate(judge.target_)),
        "max_tokens": judge.max_tokens,
        "system_prompt": config.model.system_prompt if judge.kind == "trained" else None,
        "backend": backend,
        "dtype": config.generation.dtype,
    }


def judges_of(experiment: Experiment, benchmark: str) -> list[str]:
    """Which judges read a benchmark: all for harm, the phrase judge for over-refusal, none for utility."""
    role = experiment.config.benchmark[benchmark].role
    if role == "utility":
        return []
    if role == "harm":
        return list(experiment.config.judge)
    return [name for name, judge in experiment.config.judge.items() if judge.kind == "phrases"]
