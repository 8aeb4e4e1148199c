"""rho of every module of the task adapter, in one table. A sweep over tau reads it and never computes it again."""

from __future__ import annotations

from pipeline.artifacts import SIMILARITY, model_folder
from pipeline.progress import report
from pipeline.worker import Job
from safemerge.measure import similarity_table
from safemerge.table import write_table


def run(jobs: list[Job]) -> None:
    """Write similarity.csv for every job."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    for job in jobs:
        with job.finishing():
            table = similarity_table(
                base=model_folder(job.inputs["base"]),
                aligned=model_folder(job.inputs["aligned"]),
                adapter=job.inputs["adapter"],
                device=device,
                progress=report,
            )
            write_table(job.output / SIMILARITY, table)
