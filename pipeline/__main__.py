"""The experiment, stage by stage: `python -m pipeline model=llama3.1-8b task=gsm8k seed=0`.

Read this file first: a config becomes a plan of steps (`pipeline.plan`), each step an artifact under a content key
(`pipeline.store`) made in a worker process (`pipeline.run`, `pipeline.stages.*`), and the report reads artifacts only.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

# Our own handling of errors below needs them as exceptions; Hydra would print its own text and exit 1.
os.environ["HYDRA_FULL_ERROR"] = "1"

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from pipeline import again, answers, costs, endings, exhausted, grid, overview, plan, revisions, screen
from pipeline.config import check
from pipeline.mistakes import one_line
from pipeline.multirun import Outcome
from pipeline.preflight import require
from pipeline.run import Runner, StageError
from pipeline.settings import Config
from pipeline.store import Store
from pipeline.tracking import Tracker
from safemerge.errors import UserError
from safemerge.screening import hidden, visible


def prepare(x: plan.Experiment, runner: Runner) -> None:
    """Data sets and models; for the small models also the alignment stage that makes the aligned member."""
    runner.ensure("data", x.prepared)
    runner.ensure("base model", [x.base])
    before_alignment = [s for s in (x.alignment, x.guard) if s is not None]
    if before_alignment:
        runner.ensure("alignment and judge" if x.guard else "alignment", before_alignment)
    runner.ensure("aligned and judge models", [x.aligned, *x.judge_models.values(), *x.probes.values()])


def finetune(x: plan.Experiment, runner: Runner) -> None:
    """The task, safety and SafeInstruct adapters: one stage, three data sets."""
    runner.ensure("fine-tuning", x.trained)


def similarity(x: plan.Experiment, runner: Runner) -> None:
    """rho of every module, once."""
    if any(p.selection.rule != "none" for p in x.points):
        runner.ensure("similarity", [x.similarity])


def merge(x: plan.Experiment, runner: Runner) -> None:
    """An adapter for each distinct repair of the grid, and its second fine-tuning where a method asks for one."""
    adapters = [c.adapter for c in grid.candidates(x, runner.store)]
    for title, steps in again.layers(adapters) or [("merging", [])]:
        runner.ensure(title, steps)


def generate(x: plan.Experiment, runner: Runner) -> None:
    """Completions of every adapter on every benchmark, from one engine."""
    candidates = grid.candidates(x, runner.store)
    runner.ensure("generation", [step for c in candidates for step in c.replies])
    runner.ensure("engine check", [c.parity for c in candidates if c.parity])


def judge(x: plan.Experiment, runner: Runner) -> None:
    """Verdicts of every judge, and of each on the held-out pairs; then the test half of the selected points.

    And what each adapter that is reported on finds likely.
    """
    from pipeline.run_record import final_candidates

    candidates = final = grid.candidates(x, runner.store)
    verdicts(x, runner, candidates)
    if x.config.selection.grid == "dev":
        final = final_candidates(x, runner.store)
        if "generate" in x.config.stages:
            runner.ensure("generation, test half", [step for c in final for step in c.replies])
        verdicts(x, runner, final)
    runner.ensure("likelihoods", [step for c in final for step in c.likelihoods])


def verdicts(x: plan.Experiment, runner: Runner, candidates: list[grid.Candidate]) -> None:
    """What each judge says of the completions and of the held-out pairs."""
    for name in x.config.judge:
        if threshold := answers.threshold(x, name):
            runner.ensure(threshold.name, [threshold])
        heldout = answers.verdicts(x, x.heldout, name)
        runner.ensure(f"judge {name}", [*(step for c in candidates for step in c.judged_by(name)), heldout])


def report(x: plan.Experiment, runner: Runner, tracker: Tracker, seconds: float) -> None:
    """Tables and figures from the artifacts."""
    from pipeline import reporting, run_record

    # Stages of an earlier run may be reported by a later one: what is missing is said before anything is checked.
    candidates = run_record.final_candidates(x, runner.store)
    runner.ensure("checks", [run_record.checks_step(x, runner.store, candidates)])
    many = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    reporting.write(
        x,
        runner.store,
        candidates,
        screen.console,
        tracker,
        costs=runner.costs,
        seconds=seconds,
        multirun=many,
    )


STAGES = {
    "prepare": prepare,
    "finetune": finetune,
    "similarity": similarity,
    "merge": merge,
    "generate": generate,
    "judge": judge,
}


def run(config: Config) -> None:
    """One (model, task, seed): every stage asked for, in order."""
    start = time.monotonic()
    store = Store(Path(config.store), config.locks)
    config, moving = revisions.pinned(config)
    experiment = plan.build(config)
    if config.dry_run:
        overview.show(experiment, store, screen.console, moving)
        return
    require(experiment, store, moving)
    name = plan.run_name(config)
    screen.console.print(
        f"[bold]{name}[/]  (store {config.store}; safe to interrupt; rerun the same command to resume)"
    )
    tracker = Tracker(config, name, screen.console)
    runner = Runner(store, screen.console, tracker.step, folder=Path(config.runs).absolute() / name)
    code = 1
    if set(config.stages) & set(STAGES):
        gc.enable()
    try:
        for stage, function in STAGES.items():
            if stage in config.stages:
                function(experiment, runner)
        if "report" in config.stages:
            report(experiment, runner, tracker, time.monotonic() - start)
        code = 0
    finally:
        runner.close()
        tracker.finish(code)
    costs.show(runner.costs, screen.console)
    screen.console.print(
        f"{len(runner.made)} artifacts made, {runner.cached} found in the store, {time.monotonic() - start:.0f} s"
    )


def shown(text: str) -> str:
    """An error's text as it may be shown: without secrets, in one line, steering no terminal."""
    return visible(hidden(" ".join(text.split())))


def ended(function: Callable[[], None], others: bool = False) -> Outcome:
    """Run, and turn what the user can mend into one line.

    others: whether more jobs come after this one, which an error of ours must not end: its traceback is shown, no more.

    Returns:
        Code 0; 2 for bad input, 1 for a failed stage; after a signal 128 + its number: 130 SIGINT, 143 SIGTERM, 129 SIGHUP.
    """
    try:
        with endings.handled():
            function()
    except (UserError, HydraException, OmegaConfBaseException) as error:
        outcome = Outcome(2, one_line(error))
    except StageError as error:
        outcome = Outcome(1, str(error))
    except (OSError, MemoryError) as error:
        line = exhausted.explained(error)
        if line is None:
            raise
        outcome = Outcome(1, line)
    except KeyboardInterrupt as error:
        number = endings.number_of(error)
        screen.errors.print(endings.sentence(number), style="yellow")
        return Outcome(128 + number, endings.sentence(number))
    except Exception as error:
        if not others:
            raise
        traceback.print_exc()
        outcome = Outcome(1, " ".join(traceback.format_exception_only(error)[-1].split()))
    else:
        return Outcome()
    outcome = replace(outcome, reason=shown(outcome.reason))
    screen.errors.print(f"error: {outcome.reason}", style="red", markup=False)
    return outcome


def guarded(function: Callable[[], None]) -> int:
    """The exit code of `ended`."""
    return ended(function).code


@hydra.main(config_path="../conf", config_name="config", version_base="1.3")
def hydra_main(cfg: DictConfig) -> Outcome:
    """Called by Hydra once per job. A failed job of a multirun comes back as an outcome, so that the others run.

    Otherwise it leaves by SystemExit: Hydra adds its own lines to any other exception.
    """
    logging.getLogger().setLevel(logging.WARNING)
    endings.follow_main()
    many = HydraConfig.get().mode == RunMode.MULTIRUN

    def job() -> None:
        launcher = HydraConfig.get().runtime.choices["launcher"]
        if launcher != "local" and not many:
            raise UserError(
                f"launcher={launcher} starts the jobs of a multirun, and this is one run: add -m, or leave it out"
            )
        run(check(cfg))

    outcome = ended(job, others=many)
    if outcome.code >= 128 or (outcome.code and not many):
        sys.exit(outcome.code)
    return outcome


if __name__ == "__main__":
    # What is imported and composed is no garbage, and looking for it takes a twentieth of `make report`; see `run`.
    gc.disable()
    # `+dry_run=true` is the documented spelling; Hydra takes a plus for new keys only, and the key exists.
    sys.argv = [a.lstrip("+") if a.lstrip("+").startswith("dry_run=") else a for a in sys.argv]
    endings.follow_main()
    sys.exit(guarded(hydra_main))
