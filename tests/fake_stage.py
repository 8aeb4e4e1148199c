"""A stage whose jobs do what their settings say, for tests of what carries stages out."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.run import Runner

STAGE = """
import json, os, random, signal, subprocess, sys, time
from pathlib import Path
from safemerge.errors import UserError
from pipeline.progress import report
from pipeline.worker import finish

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"

def family(job, burn):
    # A child in the worker's group, one that ignores SIGTERM, and one in a session of its own, as engines start them.
    children = [
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"]),
        subprocess.Popen([sys.executable, "-c", STUBBORN]),
        subprocess.Popen([sys.executable, "-c", STUBBORN], start_new_session=True),
    ]
    time.sleep(0.5)
    rank = os.environ.get("RANK", "")
    partial = job.output / f"pids{rank}.partial"
    partial.write_text(json.dumps([os.getpid(), *(c.pid for c in children)]))
    os.replace(partial, job.output / f"pids{rank}")
    end = time.monotonic() + 300
    while time.monotonic() < end:
        sum(range(300_000)) if burn else time.sleep(1)  # burning holds the interpreter for ms at a time

def run(jobs):
    print("this is", jobs[0].name)
    if jobs[0].settings["do"] == "together":
        for job in jobs:
            finish(job, 10.0)
        return
    for position, job in enumerate(jobs):
        do = job.settings["do"]
        with job.finishing():
            (job.output / "pid").write_text(str(os.getpid()))
            seen = job.output / ("attempts" + os.environ.get("RANK", "").strip("0"))
            with seen.open("a") as stream:
                stream.write("x")
            again = len(seen.read_text()) > 1
            if do == "bad input":
                print("a library's warning", file=sys.stderr)
                raise UserError("rows=0 is too few; give more")
            if do == "crash":
                raise RuntimeError("the reason")
            if do == "full disk":
                raise OSError(28, "No space left on device", "/there/x.safetensors")
            if do == "no memory":
                raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
            if do == "secret":
                print("log in with", os.environ["MY_API_KEY"])
                raise RuntimeError("refused: " + os.environ["MY_API_KEY"])
            if do == "steer":
                raise RuntimeError("\\x1b[2Jgone")
            if do == "rank 1 is killed" and os.environ["RANK"] == "1":
                while not (job.output / "half").exists():
                    time.sleep(0.01)
                (job.output / "pid1").write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
            if do.startswith("rank"):
                assert os.environ["WORLD_SIZE"] == "2"
                (job.output / f"pid{os.environ['RANK']}").write_text(str(os.getpid()))
                if os.environ["RANK"] == "0":
                    (job.output / "half").write_text("saved")
                    if do == "rank 0 is killed":
                        os.kill(os.getpid(), signal.SIGKILL)
                    time.sleep(300 if do.startswith("rank 1") else 0)  # as where the other is waited for
                elif do == "rank 1 finds bad input":
                    raise UserError("rows=1 is too few; give more")
            if do == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if do.startswith("family") and not again:
                family(job, burn=do.endswith("burn"))
            if do == "once" and not again:
                raise RuntimeError("first time")
            if do == "leave traces":
                os.environ["TRACE"] = "x"
            if do == "look for traces":
                assert "TRACE" not in os.environ
            if do == "busy and big":
                memory = bytearray(b"x") * 200_000_000
                end = time.process_time() + 0.3
                while time.process_time() < end:
                    pass
                del memory
                job.count_tokens(5)
                job.count_tokens(7)
            if do == "slow":
                time.sleep(0.6)
                report(1, 4, "loss 0.50")
                time.sleep(1.2)
            if do == "read":
                (job.output / "copy").write_text((job.inputs["source"] / "result").read_text())
            (job.output / "result").write_text(do)
        report(position + 1, len(jobs), do)
"""


def install(folder: Path) -> str:
    """Write the stage to `folder`; the PYTHONPATH under which workers find it as `fake_stage`."""
    package = folder / "extra"
    package.mkdir()
    (package / "fake_stage.py").write_text(STAGE)
    # Workers are processes of their own: they find the stage through their path.
    (package / "sitecustomize.py").write_text(
        "import pipeline.stages\npipeline.stages.__path__.append(__file__.rpartition('/')[0])\n"
    )
    root = str(Path(__file__).resolve().parents[1])
    return os.pathsep.join([str(package), root])


def said(runner: Runner) -> str:
    """What a runner wrote to its console, of the fixture of that name."""
    return runner.console.file.getvalue()  # type: ignore[attr-defined,no-any-return]
