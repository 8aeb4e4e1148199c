"""Carry out steps: find finished ones in the store, make the rest in worker processes, show how far things are."""

from __future__ import annotations

import contextlib
import importlib
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline import display, job, provenance
from pipeline.costs import StageCost
from pipeline.precision import cuda_capability
from pipeline.store import DONE, Step, Store
from pipeline.unkeyed import Share, written
from pipeline.usage import Uses
from pipeline.worker import read_jobs
from pipeline.worker_process import Outcome, WorkerProcess, launched
from safemerge.errors import UserError
from safemerge.screening import hidden, visible


class StageError(Exception):
    """A worker failed for a reason that is not the user's input; the message says where its log is."""


class _Failed(Exception):
    """A worker failed: what it had cost by then, and what to raise."""

    def __init__(self, outcome: Outcome, error: Exception) -> None:
        super().__init__(str(error))
        self.outcome, self.error = outcome, error


def _job(step: Step, store: Store) -> dict[str, Any]:
    adapter = step.inputs.get("adapter")
    return {
        "name": step.name,
        "settings": dict(step.settings),
        "unkeyed": written(step.unkeyed),
        "inputs": {role: str(store.path(source)) for role, source in step.inputs.items()},
        "output": str(store.partial(step)),
        "adapter_key": adapter.key if adapter else "",
    }


def _inline(step: Step) -> bool:
    """Light steps that need neither torch nor a process of their own."""
    return (
        step.settings.get("what") in ("training", "items", "pairs") or step.settings.get("kind") == "phrases"
    )


def _devices(step: Step) -> int:
    return step.unkeyed.devices if isinstance(step.unkeyed, Share) else 1


def _parallel(step: Step) -> str:
    return step.unkeyed.parallel if isinstance(step.unkeyed, Share) else "ddp"


def sharing(steps: Sequence[Step]) -> str | None:
    """Which of the kept workers these steps run in, which saves importing torch or vLLM anew; None: a fresh one.

    vLLM has one of its own: it does not start in a process that torch has worked in. Where a GPU must be empty before a
    stage starts, none is kept.
    """
    if any(_devices(s) > 1 for s in steps) or cuda_capability() is not None:
        return None
    return "vllm" if any(s.settings.get("backend") == "vllm" for s in steps) else "torch"


def _without_secrets(log: Path) -> None:
    """A library may have printed a token; the log stays with the artifact, which others may get."""
    with contextlib.suppress(OSError):
        text = log.read_text(errors="surrogateescape")
        if (clean := hidden(text)) != text:
            log.write_text(
                clean, errors="surrogateescape"
            )  # the same file, to whose end the worker goes on writing


class Runner:
    """Makes artifacts and remembers which were made, which were there already and what the stages cost.

    To be closed when no more is wanted: the workers that stages share wait until then.
    """

    def __init__(
        self, store: Store, console: Console, on_finish: Any = None, *, folder: Path | None = None
    ) -> None:
        self.store, self.console = store, console
        self.uses = Uses(folder, store.root)  # noted in the run's folder
        self.on_finish = on_finish or (lambda step, folder: None)
        self.made: list[Step] = []
        self.cached = 0
        self.costs: list[StageCost] = []
        self._kept: dict[str, WorkerProcess] = {}

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the kept workers; they are idle, so nothing is lost."""
        while self._kept:
            self._kept.popitem()[1].end(0)

    def ensure(self, title: str, steps: Sequence[Step]) -> None:
        """Make the missing ones among `steps` in one worker; all must have their inputs in the store.

        Raises:
            UserError: an input is not in the store, or bad input that the worker found.
            StageError: the worker failed otherwise. What it had finished is kept.
        """
        distinct = list({s.key: s for s in steps}.values())
        self.uses.add(f"{s.stage}/{s.key}" for s in distinct)
        before, rows = len(self.made), len(self.costs)
        while missing := [s for s in distinct if not self.store.has(s)]:
            # Another run may be making some of them: they are waited for when the others are done.
            with self.store.claim(missing, lambda: self._waits(title)) as mine:
                self._make_room(mine)
                self._commit_finished(mine)  # a run that was killed between finishing and moving
                before += sum(self.store.has(s) for s in mine)
                if mine := [s for s in mine if not self.store.has(s)]:
                    self._make(title, mine)
        found = len(distinct) - (len(self.made) - before)
        self.cached += found
        if rows == len(self.costs):
            self.costs.append(StageCost(title, 0, found, 0.0, 0.0, None, 0))
        else:
            self.costs[-1] = replace(self.costs[-1], found=found)

    def _make_room(self, steps: Sequence[Step]) -> None:
        """Say which artifacts are damaged, and set them aside; their locks are held."""
        for step in steps:
            if (reason := self.store.damage(step)) is not None:
                note = f"{step.stage}/{step.key} ({step.name}) is damaged: {reason}; it is made again"
                self.console.print(note, style="yellow", markup=False, soft_wrap=True)
            self.store.set_aside(step)

    def _waits(self, title: str) -> None:
        self.console.print(f"{title}: another run is making what is missing; waiting for it", style="dim")

    def _make(self, title: str, steps: Sequence[Step]) -> None:
        self._require_inputs(title, steps)
        for step in steps:
            self.store.partial(step).mkdir(parents=True, exist_ok=True)
        start, outcome = time.monotonic(), Outcome()
        try:
            run = self._run_inline if all(_inline(s) for s in steps) else self._run_worker
            outcome = run(title, steps)
        except _Failed as failure:
            outcome = failure.outcome
            raise failure.error from None
        finally:
            wall = time.monotonic() - start
            made = self._commit_finished(steps)
            for step in steps:
                with contextlib.suppress(OSError):  # only one in which nothing was written
                    self.store.partial(step).rmdir()
            counted = [m["tokens"] for m in made if m.get("tokens") is not None]
            tokens = sum(counted) if counted else None
            peak = max([outcome.peak_memory_bytes, *(m.get("peak_memory_bytes", 0) for m in made)])
            self.costs.append(StageCost(title, len(made), 0, wall, outcome.cpu_s, tokens, peak))
        left = [s.name for s in steps if not self.store.has(s)]
        if left:
            raise StageError(f"{title}: the worker ended without finishing {', '.join(left)}")

    def _require_inputs(self, title: str, steps: Sequence[Step]) -> None:
        """Part of the stages was asked for: what they start from must have been made by an earlier run."""
        needed = {source.key: source for step in steps for source in step.inputs.values()}
        absent = [s for s in needed.values() if isinstance(s, Step) and not self.store.has(s)]
        if absent:
            more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
            reason = self.store.damage(absent[0])
            why = (
                f"damaged in the store {self.store.root} ({reason})"
                if reason
                else f"not in the store {self.store.root}"
            )
            raise UserError(
                f"{title} needs {absent[0].name} ({absent[0].stage}){more}, {why}: "
                "include the earlier stages, or leave `stages` out to run them all"
            )

    def _commit_finished(self, steps: Sequence[Step]) -> list[dict[str, Any]]:
        """Move what is complete to its place; the manifests."""
        manifests = []
        for step in steps:
            done = self._done(step)
            if done is None:
                continue
            manifest = {
                "stage": step.stage,
                "name": step.name,
                "key": step.key,
                "version": step.version,
                "settings": dict(step.settings),
                "inputs": {role: source.key for role, source in step.inputs.items()},
                **done,
                **provenance.collect(),
            }
            self.store.commit(step, manifest)
            self.made.append(step)
            manifests.append(manifest)
            self.on_finish(step, self.store.path(step))
        return manifests

    def _done(self, step: Step) -> dict[str, Any] | None:
        """What the worker wrote down when the artifact was complete; None: it is not."""
        try:
            found = json.loads((self.store.partial(step) / DONE).read_text())
        # None, or cut by a full disk: then the stage goes on from what is there.
        except (OSError, ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def _spec(self, steps: Sequence[Step]) -> dict[str, Any]:
        log = self.store.partial(steps[0]) / "log.txt"
        return {
            "stage": steps[0].stage,
            "log": str(log),
            "jobs": [_job(step, self.store) for step in steps],
        }

    def _run_inline(self, title: str, steps: Sequence[Step]) -> Outcome:
        meter = job.begin(len(steps))
        importlib.import_module(f"pipeline.stages.{steps[0].stage}").run(read_jobs(self._spec(steps)))
        return Outcome(**meter.spent())

    def _run_worker(self, title: str, steps: Sequence[Step]) -> Outcome:
        with display.shown(self.console, title) as update:
            outcome = self._carry_out(steps, update)
            if outcome.error is not None:
                raise _Failed(outcome, self._error(title, steps[0], outcome))
        return outcome

    def _carry_out(self, steps: Sequence[Step], update: display.Update) -> Outcome:
        """In a kept worker if these steps allow it, otherwise in a fresh one."""
        spec, log = self._spec(steps), self.store.partial(steps[0]) / "log.txt"
        devices = max(_devices(s) for s in steps)
        if devices > 1:
            try:
                return launched(spec, _parallel(steps[0]), devices, log, update)
            finally:
                _without_secrets(log)
        share = sharing(steps)
        worker = self._kept.pop(share, None) if share else None
        if worker is not None and not worker.alive:
            worker.end(0)
            worker = None
        worker = worker or WorkerProcess(log)
        sound = False
        try:
            outcome = worker.run(spec, update)
            sound = outcome.error is None
        finally:
            _without_secrets(log)
            if not sound:  # interrupted or failed: what the stage left behind in the process is not built on
                worker.end()
            elif share:
                self._kept[share] = worker
            else:
                worker.close()
        return outcome

    def _error(self, title: str, first: Step, outcome: Outcome) -> Exception:
        """What to raise for a failed worker; shows the end of its log unless the user is told what to mend."""
        if outcome.user:
            return UserError(outcome.error)
        log = self.store.partial(first) / "log.txt"
        tail = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        for line in [] if outcome.known else tail[-12:]:
            self.console.print(visible(hidden(line)), style="dim", markup=False, highlight=False)
        # The folder of a first job that was finished is about to move to its final place, and the log with it.
        finished = (log.parent / DONE).exists()
        log = self.store.path(first) / log.name if finished else log
        return StageError(
            f"{title} failed ({outcome.error}); its log is {log}; rerun the same command to resume"
        )
