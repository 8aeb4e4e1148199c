"""Eight jobs on two workers, under each launcher: every stage runs once, and the results are a serial run's.

`pytest -m scale tests/scale`; a launcher whose plugin is not installed is skipped.
"""

from __future__ import annotations

import importlib.util
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.scale.launching import Multirun, counted

pytestmark = pytest.mark.scale
LAUNCHERS = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher", ["launcher=joblib", "hydra.launcher.n_jobs=2"]),
    "submitit": (
        "hydra_plugins.hydra_submitit_launcher",
        ["hydra/launcher=submitit_local", "hydra.sweeper.max_batch_size=2", "hydra.launcher.timeout_min=20"],
    ),
    "ray": (
        "hydra_plugins.hydra_ray_launcher",
        ["launcher=ray", "+hydra.launcher.ray.init.num_cpus=2", "hydra.launcher.ray.remote.num_gpus=0"],
    ),
}


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Multirun]:
    """The jobs one after the other."""
    made = Multirun(tmp_path_factory.mktemp("serial"))
    assert counted(made.run()) == (8, made.artifacts())
    yield made


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_eight_jobs_on_two_workers(launcher: str, serial: Multirun, tmp_path: Path) -> None:
    plugin, overrides = LAUNCHERS[launcher]
    if importlib.util.find_spec(plugin) is None:
        pytest.skip(f"{plugin} is not installed: pip install '.[launchers]' or '.[ray]'")
    several = Multirun(tmp_path)
    jobs, made = counted(several.run(*overrides))
    assert (jobs, made) == (8, several.artifacts()), "nothing was made twice"
    assert several.made() == serial.made()
    assert not list(several.store.glob("*/*.partial"))


def test_a_killed_jobs_work_is_taken_over(serial: Multirun, tmp_path: Path) -> None:
    """joblib's other processes end with it; all of them are started again, and find what was finished."""
    if importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher") is None:
        pytest.skip("hydra-joblib-launcher is not installed: pip install '.[launchers]'")
    several = Multirun(tmp_path)
    process = several.start(*LAUNCHERS["joblib"][1])
    while process.poll() is None and not list(several.store.glob("finetune/*.partial")):
        time.sleep(0.05)
    jobs = [child for child in psutil.Process(process.pid).children() if "loky" in " ".join(child.cmdline())]
    working = [job for job in jobs if "resource_tracker" not in " ".join(job.cmdline())]
    assert working, "they are running"
    working[0].send_signal(signal.SIGKILL)
    out, err = process.communicate(timeout=1000)
    assert process.returncode == 0, out[-3000:] + err[-3000:]
    assert several.made() == serial.made()
