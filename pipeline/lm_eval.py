"""Any task of lm-evaluation-harness on any row of a report, whose tables then have it as columns.

python -m pipeline.lm_eval --run outputs/latest/run.json --row "SafeMERGE (exact merge)" --tasks ifeval,mmlu

A result is an artifact of the store like any other: what is there is not evaluated again, and the report only reads it.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from evaluation.choosing import choose_points
from evaluation.results import Entry, load
from pipeline import content, grid, plan, reporting, run_record, screen
from pipeline.run import Runner, StageError
from pipeline.settings import Config
from pipeline.stage_settings import Harness
from pipeline.store import Step, Store
from pipeline.tracking import Tracker
from pipeline.unkeyed import Tasks
from safemerge.commands import Parser, one_line_errors
from safemerge.errors import UserError
from safemerge.screening import visible

DEFINED = {
    ".yaml",
    ".yml",
    ".py",
    ".json",
    ".jsonl",
    ".csv",
    ".parquet",
}  # what a task of one's own is made of


@dataclass(frozen=True)
class Asked:
    """What is to be evaluated, and how."""

    tasks: list[str]
    limit: int | None = None
    fewshot: int | None = None
    chat: bool = True
    include_path: Path | None = None
    backend: Literal["hf", "vllm"] = "hf"
    batch_size: int = 8


def backend_here() -> Literal["hf", "vllm"]:
    """vLLM where its distribution has that name, which the harness asks for (vLLM's CPU build has another one)."""
    try:
        metadata.version("vllm")
    except metadata.PackageNotFoundError:
        return "hf"
    return "vllm"


def harness_version() -> str:
    """The installed harness's.

    Raises:
        UserError: there is none.
    """
    try:
        return metadata.version("lm-eval")
    except metadata.PackageNotFoundError as error:
        raise UserError(
            "lm-eval is not installed: pip install '.[lm-eval]', or into .venv: "
            "pip install --no-deps -r requirements/lm-eval.txt"
        ) from error


def steps(
    x: plan.Experiment, adapter: plan.Source | None, asked: Asked, system_prompt: str | None = None
) -> list[Step]:
    """A step per task, on one adapter (None: the aligned model itself).

    system_prompt: of a row that is asked with one of its own.

    Raises:
        UserError: there is no harness, no task, or no chat template to hold that prompt.
    """
    config, version = x.config, harness_version()
    if system_prompt and not asked.chat:
        raise UserError(
            "--no-chat leaves out the safety prompt that this row is: evaluate it with the chat template"
        )
    definition = ""
    if asked.include_path is not None:
        if not any(path.suffix in DEFINED for path in asked.include_path.rglob("*")):
            raise UserError(
                f"--include-path {asked.include_path} holds no task: give the folder of its YAML file"
            )
        definition = content.folder_digest(asked.include_path, DEFINED)
    inputs: dict[str, plan.Source] = {"model": x.aligned, **({"adapter": adapter} if adapter else {})}
    told = Tasks(
        str(asked.include_path.absolute()) if asked.include_path else None,
        asked.batch_size,
        config.generation.gpu_memory_utilization,
        config.generation.tensor_parallel_size,
    )
    return [
        Step(
            "lm_eval",
            task,
            Harness(
                task=task,
                limit=asked.limit,
                fewshot=asked.fewshot,
                chat=asked.chat,
                system_prompt=(system_prompt or config.model.system_prompt) if asked.chat else None,
                backend=asked.backend,
                dtype=config.generation.dtype,
                definition=definition,
                version=version,
            ).keyed(),
            inputs,
            told,
        )
        for task in asked.tasks
    ]


def label_of(entry: Entry, row: str, keep: float) -> str:
    """The label of the point that a row of the report shows, or of a point given by its label.

    Raises:
        UserError: there is no such row.
    """
    if row in {point.label for point in entry.points}:
        return row
    chosen = choose_points(entry, "dev", keep)[0]
    if row not in chosen:
        near = difflib.get_close_matches(row, [*chosen, *(p.label for p in entry.points)], n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"--row {row}: no such row; {meant}the report has {'; '.join(chosen)}")
    return chosen[row].label


def evaluate(run_json: Path, rows: Sequence[str], asked: Asked) -> None:
    """Make what is missing, for every seed of the run, and write run.json and the report anew."""
    run, entries = load(run_json)
    several = len(entries) > 1
    runs = []
    for entry in entries:
        # The config of a run over several seeds is the first one's.
        config = Config.model_validate({**_mapping(run.config), "seed": entry.spec.seed})
        x, store = plan.build(config), Store(Path(config.store), config.locks)
        candidates = {its.point.label: its for its in run_record.final_candidates(x, store)}
        wanted = [candidates[label_of(entry, row, run.keep_gain)] for row in rows]
        runs.append((x, store, list(candidates.values()), wanted))
    for x, store, its_points, wanted in runs:
        made = [step for its in wanted for step in steps(x, its.adapter, asked, its.point.system_prompt)]
        _one(x, store, its_points, made, several)


def _mapping(config: object) -> dict[str, object]:
    if not isinstance(config, dict):
        raise UserError("this run.json holds no settings: run `make report` to write it anew")
    return config


def _one(
    x: plan.Experiment,
    store: Store,
    candidates: list[grid.Candidate],
    wanted: list[Step],
    several: bool,
) -> None:
    """One seed."""
    quiet = x.config.tracking.model_copy(update={"backend": "off"})
    tracker = Tracker(x.config.model_copy(update={"tracking": quiet}), "lm-eval", screen.console)
    with Runner(
        store, screen.console
    ) as runner:  # run.json will name the scores; what else the run uses is noted
        runner.ensure("lm-eval", wanted)
        runner.ensure("checks", [run_record.checks_step(x, store, candidates)])
    reporting.write(x, store, candidates, screen.console, tracker, costs=[], seconds=0.0, multirun=several)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    its = Parser(
        prog="python -m pipeline.lm_eval",
        description="Evaluate rows of a report with tasks of lm-evaluation-harness; they become columns of its tables.",
    )
    its.add_argument("--run", type=Path, required=True, help="run.json of a finished run")
    its.add_argument(
        "--row",
        action="append",
        required=True,
        help="as the report calls it, or a point's label; may be repeated",
    )
    its.add_argument("--tasks", required=True, help="names of lm-eval's tasks or groups, with commas")
    its.add_argument(
        "--limit", type=int, help="only the first so many items of each task: a try, not a result"
    )
    its.add_argument("--fewshot", type=int, help="examples before each item (default: the task's)")
    its.add_argument("--no-chat", action="store_true", help="prompts as they are, without the chat template")
    its.add_argument("--include-path", type=Path, help="a folder with tasks of your own (YAML files)")
    its.add_argument("--backend", choices=("hf", "vllm"), help="default: vllm where it is installed, else hf")
    its.add_argument("--batch-size", type=int, default=8, help="prompts at once, by hf (default 8)")
    return its


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Exit 0; 2 with one line on a user error, 1 on a failed evaluation."""
    options = parser().parse_args(arguments)
    tasks = [task for task in options.tasks.split(",") if task]
    try:
        if not tasks or (options.limit is not None and options.limit < 1) or options.batch_size < 1:
            raise UserError("give at least one task in --tasks, and --limit and --batch-size of 1 or more")
        if options.include_path is not None and not options.include_path.is_dir():
            raise UserError(f"--include-path {options.include_path}: no such folder")
        asked = Asked(
            tasks,
            options.limit,
            options.fewshot,
            not options.no_chat,
            options.include_path,
            options.backend or backend_here(),
            options.batch_size,
        )
        evaluate(options.run, options.row, asked)
    except StageError as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
