"""Adapters repaired by a selection of modules and a repair of them."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict

from pipeline.artifacts import REPAIR, model_folder
from pipeline.progress import report
from pipeline.stage_settings import of_merge
from pipeline.worker import Job
from safemerge.apply import repair_adapter


def run(jobs: list[Job]) -> None:
    """Write one PEFT folder per job, with what the repair reported beside it."""
    for position, job in enumerate(jobs):
        settings = of_merge(job.settings)
        with job.finishing():
            adapter = job.output / "adapter"
            shutil.rmtree(adapter, ignore_errors=True)
            changes = repair_adapter(
                task=job.inputs["task"],
                safety=job.inputs.get("safety"),
                selected=settings.selected,
                repair=settings.repair,
                output=adapter,
                base=model_folder(job.inputs["base"]) if "base" in job.inputs else None,
                aligned=model_folder(job.inputs["aligned"]) if "aligned" in job.inputs else None,
            )
            for file in adapter.iterdir():
                shutil.move(file, job.output / file.name)
            adapter.rmdir()
            (job.output / REPAIR).write_text(json.dumps(asdict(changes), indent=1))
        report(position + 1, len(jobs), job.name)
