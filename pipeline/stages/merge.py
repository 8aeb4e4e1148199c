"""Adapters repaired by a selection of modules and a repair of them."""

from __future__ import annotations

import json
import shutil

from pipeline.progress import report
from pipeline.stages.prepare import model_folder
from pipeline.worker import Job
from safemerge.apply import repair_adapter
from safemerge.selection import Repair


def run(jobs: list[Job]) -> None:
    """Write one PEFT folder per job, with what the repair reported beside it."""
    for position, job in enumerate(jobs):
        with job.finishing():
            adapter = job.output / "adapter"
            shutil.rmtree(adapter, ignore_errors=True)
            info = repair_adapter(
                task=job.inputs["task"],
                safety=job.inputs.get("safety"),
                selected=job.settings["selected"],
                repair=Repair(**job.settings["repair"]),
                output=adapter,
                base=model_folder(job.inputs["base"]) if "base" in job.inputs else None,
                aligned=model_folder(job.inputs["aligned"]) if "aligned" in job.inputs else None,
            )
            for file in adapter.iterdir():
                shutil.move(file, job.output / file.name)
            adapter.rmdir()
            (job.output / "repair.json").write_text(json.dumps(info, indent=1, default=str))
        report(position + 1, len(jobs), job.name)
