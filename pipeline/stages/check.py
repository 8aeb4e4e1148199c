"""The checks of a run, in a worker: they read tokenizers and adapters, which the report itself has no need of."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline import checks, plan
from pipeline.settings import Config
from pipeline.stages.report import final_candidates
from pipeline.store import Store
from pipeline.worker import Job


def run(jobs: list[Job]) -> None:
    """One checks.json per job: a list of checks, each with name, status, detail and the labels of the rows it affects."""
    for job in jobs:
        with job.finishing():
            x = plan.build(Config.model_validate(job.speed["config"]))
            store = Store(Path(job.speed["store"]))
            found = checks.check(x, store, final_candidates(x, store))
            (job.output / "checks.json").write_text(json.dumps(found, indent=1) + "\n")
