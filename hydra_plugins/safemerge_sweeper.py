"""Hydra's own sweeper, but that a job which fails or dies does not end the others. Hydra takes sweepers from here alone."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from pipeline import screen
from pipeline.multirun import DIED, Outcome, told

SUBMITIT = "hydra_plugins.hydra_submitit_launcher"


def failed(reason: str = DIED) -> JobReturn:
    """What stands for a job that could not say how it ended."""
    return JobReturn(status=JobStatus.COMPLETED, _return_value=Outcome(1, reason))


def lost() -> tuple[type[Exception], ...]:
    """What launchers raise when a job's process is gone: joblib, and Ray after it has tried several times."""
    ray = sys.modules.get("ray")
    return (BrokenExecutor, ray.exceptions.RayError) if ray else (BrokenExecutor,)


@contextlib.contextmanager
def submitit_goes_on() -> Iterator[None]:
    """submitit's launcher asks one job after the other for its result, and would stop at one that died: here it has one."""
    submitit: Any = importlib.import_module("submitit")
    ask, errors = submitit.Job.results, submitit.core.utils

    def results(job: Any) -> Any:
        try:
            return ask(job)
        except errors.UncompletedJobError:
            return [failed()]
        except errors.FailedJobError as error:  # it could not even start; the last line of its traceback
            return [failed(str(error).strip().rpartition("\n")[2] or DIED)]

    submitit.Job.results = results
    try:
        yield
    finally:
        submitit.Job.results = ask


class Patient:
    """A launcher that brings a result of every job.

    When a process of joblib's dies, so does all that runs beside it, and nobody says whose it was: the batch is started
    once more, where what was finished is found in the store; and if that ends likewise, its jobs run one by one.
    """

    def __init__(self, launcher: Launcher) -> None:
        self.launcher = launcher

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """See `hydra.plugins.launcher.Launcher`."""
        submitit = type(self.launcher).__module__.startswith(SUBMITIT)
        with submitit_goes_on() if submitit else contextlib.nullcontext():
            for _ in range(2):
                with contextlib.suppress(*lost()):
                    return self.launcher.launch(job_overrides, initial_job_idx)
            return [self._alone(job, initial_job_idx + i) for i, job in enumerate(job_overrides)]

    def _alone(self, job: Sequence[str], number: int) -> JobReturn:
        try:
            return self.launcher.launch([job], number)[0]
        except lost():
            return failed()


class Sweeper(BasicSweeper):
    """All combinations of what was given, as Hydra's own; leaves by SystemExit if jobs failed, with a line on each."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """See `hydra.plugins.sweeper.Sweeper`."""
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        assert self.launcher is not None
        self.launcher = Patient(self.launcher)  # type: ignore[assignment]

    def sweep(self, arguments: list[str]) -> Any:
        """See `hydra.plugins.sweeper.Sweeper`."""
        returns = super().sweep(arguments)
        assert self.overrides is not None
        jobs = [job for batch in self.overrides for job in batch]
        outcomes = [its.return_value for batch in returns for its in batch]
        if code := told(jobs, outcomes, screen.errors):
            sys.exit(code)
        return returns
