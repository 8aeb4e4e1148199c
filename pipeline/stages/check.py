"""The checks of a run, in a worker: they read tokenizers and adapters, which the report itself has no need of."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline import checks, plan
from pipeline.artifacts import CHECKS
from pipeline.run_record import final_candidates
from pipeline.settings import Config
from pipeline.store import Store
from pipeline.unkeyed import Whole
from pipeline.worker import Job


def run(jobs: list[Job]) -> None:
    """One checks.json per job: a list of checks, each with name, status, detail and the labels of the rows it affects."""
    for job in jobs:
        with job.finishing():
            whole = job.beside(Whole)
            x = plan.build(Config.model_validate(whole.config))
            store = Store(Path(whole.store))
            found = checks.check(x, store, final_candidates(x, store))
            text = json.dumps([check.model_dump() for check in found], indent=1)
            (job.output / CHECKS).write_text(text + "\n")
