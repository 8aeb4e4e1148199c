"""The checks of a run, in a worker: they read tokenizers and adapters, which the report itself has no need of."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline import checks, plan
from pipeline.artifacts import CHECKS
from pipeline.run_record import final_candidates
from pipeline.settings import Config
from pipeline.store import Store
from pipeline.worker import Job


def run(jobs: list[Job]) -> None:
    """One checks.json per job: a list of checks, each with name, status, detail and the labels of the rows it affects."""
    for job in jobs:
        with job.finishing():
            x = plan.build(Config.model_validate(job.unkeyed["config"]))
            store = Store(Path(job.unkeyed["store"]))
            found = checks.check(x, store, final_candidates(x, store))
            text = json.dumps([check.model_dump() for check in found], indent=1)
            (job.output / CHECKS).write_text(text + "\n")
