"""One file per stage, one `run(jobs)` each; run by `pipeline.worker` in a process of its own."""
