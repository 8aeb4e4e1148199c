"""Weights & Biases: a copy of what the store and the report hold. Nothing here may ask for a login or fail a run."""

from __future__ import annotations

import json
import logging
import netrc
import os
import queue
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from rich.console import Console

from evaluation.long_form import ResultRow
from evaluation.run_file import Cost
from pipeline.artifacts import ADAPTER, COMPLETIONS, LOG
from pipeline.settings import Config
from pipeline.store import MANIFEST, Step
from safemerge.errors import first_line
from safemerge.screening import hidden, visible

log = logging.getLogger(__name__)
T = TypeVar("T")

CALL_S, FINISH_S = 120.0, 600.0  # that a call to W&B, and its last upload, may take

ALIASES = {"dryrun": "offline", "run": "online"}  # W&B's older names


def has_key() -> bool:
    """Whether W&B could log in without asking: a key in the environment, or one for its host in ~/.netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        known = netrc.netrc(Path(os.environ.get("NETRC", "~/.netrc")).expanduser())
    except (OSError, netrc.NetrcParseError):
        return False
    return known.authenticators(host) is not None


def decide_mode(mode: str) -> tuple[str, str]:
    """online, offline or disabled, and a line on it where the user or the environment asked for something.

    A mode in the config counts before `WANDB_MODE`, as it does for W&B itself. Without a key never online: W&B would ask
    for a login.
    """
    variable = os.environ.get("WANDB_MODE", "")
    if mode == "auto" and not variable:
        return ("online" if has_key() else "offline"), ""
    asked = ALIASES.get(variable, variable) if mode == "auto" else mode
    by = f"WANDB_MODE={variable}" if mode == "auto" else f"tracking.mode={mode}"
    if asked == "online":
        if has_key():
            return "online", ""
        remedy = "set WANDB_API_KEY or run `wandb login`; `wandb sync` uploads this run later"
        return "offline", f"tracking offline: {by}, but there is no key: {remedy}"
    if asked == "offline":
        return "offline", "" if mode == "offline" else f"tracking offline: {by}; `wandb sync` uploads it"
    known = "" if asked == "disabled" else ", which is none of online, offline and disabled"
    return "disabled", f"tracking off: {by}{known}"


def within(seconds: float, function: Callable[[], T]) -> T:
    """What the function returns. It goes on in a thread of its own where it takes longer; nobody waits for that.

    Raises:
        TimeoutError: after so many seconds; or what the function raises.
    """
    done: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def work() -> None:
        try:
            done.put((True, function()))
        except BaseException as error:
            done.put((False, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        well, found = done.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"W&B has not answered for {seconds:.0f} s; `wandb sync` uploads later") from None
    if not well:
        raise found
    return cast(T, found)


class Tracker:
    """One W&B run per (model, task, seed); stages are namespaces in it, and a group holds the runs of a sweep.

    The run starts with the first thing worth logging: a job that finds everything cached uploads nothing.
    """

    def __init__(self, config: Config, name: str, console: Console) -> None:
        self.config, self.name, self.console = config, name, console
        self.run: Any = None
        self.broken = config.tracking.backend == "off"

    def _start(self) -> Any:
        if self.broken or self.run is not None:
            return self.run
        tracking = self.config.tracking
        mode, line = decide_mode(tracking.mode)
        if line:
            self.console.print(line, style="yellow", soft_wrap=True)
        if mode == "disabled":
            self.broken = True
            return None
        try:
            os.environ.setdefault("WANDB_SILENT", "true")
            os.environ.setdefault("WANDB_CONSOLE", "off")
            # Its own reports on itself hold up the end of a run for a minute where the server does not answer.
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
            import wandb

            folder = Path(tracking.dir)
            folder.mkdir(parents=True, exist_ok=True)
            options: dict[str, Any] = dict(
                project=tracking.project,
                entity=tracking.entity,
                group=tracking.group
                or f"{self.config.model.name}-{self.config.task.name}-{self.config.data.source}",
                name=self.name,
                id=uuid.uuid4().hex[:12],  # offline runs with one id would overwrite each other
                dir=str(folder),
                mode=mode,
                config=self.config.model_dump(by_alias=True),
                settings=wandb.Settings(init_timeout=30, console="off", silent=True),
            )
            self.run = within(CALL_S, lambda: wandb.init(**options))
        except Exception as error:  # a tracker must never cost a result
            self._give_up(error)
        return self.run

    def _give_up(self, error: Exception) -> None:
        self.broken, self.run = True, None
        self.console.print(
            visible(hidden(f"tracking off: {type(error).__name__}: {first_line(error)}")),
            style="yellow",
            markup=False,
        )

    def step(self, step: Step, folder: Path) -> None:
        """Log a finished artifact: its settings, cost, training curve, and the adapter itself."""
        run = self._start()
        if run is None:
            return
        try:
            within(CALL_S, lambda: self._step(run, step, folder))
        except Exception as error:
            self._give_up(error)

    def _step(self, run: Any, step: Step, folder: Path) -> None:
        import wandb

        manifest = json.loads((folder / MANIFEST).read_text())
        space = f"{step.stage}/{step.name.replace(' ', '_')}"
        run.config.update({space: manifest["settings"]}, allow_val_change=True)
        run.summary[f"{space}/wall_s"] = manifest["wall_s"]
        run.summary[f"{space}/peak_memory_bytes"] = manifest["peak_memory_bytes"]
        curve = folder / LOG
        if step.stage == "finetune" and curve.exists():
            run.define_metric(f"{space}/*", step_metric=f"{space}/step")
            for line in curve.read_text().splitlines():
                row = json.loads(line)
                run.log({f"{space}/{k}": v for k, v in row.items() if isinstance(v, int | float)})
        if self.config.tracking.log_adapters and (folder / ADAPTER).exists():
            artifact = wandb.Artifact(
                f"{step.stage}-{step.key}", type="adapter", metadata={"name": step.name}
            )
            artifact.add_dir(str(folder))
            run.log_artifact(artifact)
        if self.config.tracking.log_completions and (folder / COMPLETIONS).exists():
            artifact = wandb.Artifact(f"completions-{step.key}", type="completions")
            artifact.add_file(str(folder / COMPLETIONS))
            run.log_artifact(artifact)

    def report(
        self,
        rows: Sequence[ResultRow],
        figures: Sequence[Path],
        costs: Sequence[Cost] = (),
    ) -> None:
        """Log the results table, the figures and what the stages cost."""
        run = self._start()
        if run is None:
            return
        try:
            within(CALL_S, lambda: self._report(run, rows, figures, costs))
        except Exception as error:
            self._give_up(error)

    def _report(
        self, run: Any, rows: Sequence[ResultRow], figures: Sequence[Path], costs: Sequence[Cost]
    ) -> None:
        import wandb

        tables = {
            "results": [asdict(row) for row in rows],
            "costs": [cost.model_dump() for cost in costs],
        }
        for name, found in tables.items():
            if found:
                data = [list(row.values()) for row in found]
                run.log({f"report/{name}": wandb.Table(columns=list(found[0]), data=data)})
        images = [figure for figure in figures if figure.suffix == ".png"]
        run.log({f"report/{figure.stem}": wandb.Image(str(figure)) for figure in images})

    def finish(self, code: int = 0) -> None:
        """Close the run; offline ones stay on disk for `wandb sync`."""
        if self.run is not None:
            try:
                within(FINISH_S, lambda: self.run.finish(exit_code=code))
            except Exception as error:
                self._give_up(error)
