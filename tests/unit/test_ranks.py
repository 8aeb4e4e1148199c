"""Two processes train what one trains: the same batches, the same loss, the same adapter, written once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, SequentialSampler

from pipeline.artifacts import LOG, labels
from pipeline.job import begin
from pipeline.stages import finetune
from pipeline.stages.ranks import Filled
from pipeline.store import DONE
from pipeline.unkeyed import Share
from pipeline.worker_process import Outcome
from tests.ranks import CASES, Trainings, weights


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainings, Outcome, list[Any]]:
    """Every case in one process and in two; the last one goes on in two from where one process was cut off."""
    its = Trainings(tmp_path_factory.mktemp("ranks"))
    case = CASES["whole batches"]
    alone = [its.one(case, name) for name, case in CASES.items()]
    begin(len(alone))
    finetune.run(alone)
    cut = its.two(case, "resumed")
    interrupted = replace(cut, unkeyed=Share(1, *case.one))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(finetune, "report", _interrupt)
        finetune.run([interrupted])
    assert [path.name for path in (cut.output / "checkpoints").glob("c*")] == ["checkpoint-4"]
    (cut.output / "checkpoints" / "checkpoint-6").mkdir()  # the process died as it began to write this one
    told: list[Any] = []
    outcome = its.launch([*(its.two(case, name) for name, case in CASES.items()), cut], told)
    assert outcome.error is None, (its.folder / "log").read_text()[-4000:]
    return its, outcome, told


def _interrupt(done: float, total: float, note: str) -> None:
    if done == 5:
        raise KeyboardInterrupt


@pytest.mark.parametrize("name", [*CASES, "resumed"])
def test_two_processes_train_the_adapter_of_one(
    name: str, made: tuple[Trainings, Outcome, list[Any]]
) -> None:
    folder = made[0].folder
    one, two = folder / f"one {'whole batches' if name == 'resumed' else name}", folder / f"two {name}"
    alone, together = weights(one), weights(two)
    assert set(alone) == set(together)
    moved = max(float(w.abs().max()) for key, w in alone.items() if "lora_B" in key)
    assert moved > 5e-3, "B starts at zero: something was learnt"
    for key, weight in alone.items():
        torch.testing.assert_close(together[key], weight, rtol=1e-4, atol=1e-6)
    losses = [[json.loads(line)["loss"] for line in (its / LOG).open()] for its in (one, two)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert json.loads((one / DONE).read_text())["tokens"] == json.loads((two / DONE).read_text())["tokens"]
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}, (
        "and no checkpoint is left"
    )


def test_the_first_batch_that_is_shown_holds_rows_only(made: tuple[Trainings, Outcome, list[Any]]) -> None:
    shown = labels(made[0].folder / "two fewer rows than ranks hold").first_batch
    assert len(shown) == 3 and all(row.labels.endswith("<eos>") for row in shown)


def test_progress_arrives_from_the_first_rank_alone(made: tuple[Trainings, Outcome, list[Any]]) -> None:
    for position, name in enumerate(("whole batches", "accumulated", "by length")):
        done = [done for done, _, note in made[2] if note.startswith(f"two {name}")]
        assert done == [6 * position + step for step in range(1, 7)], "each step once"


@pytest.mark.parametrize(("rows", "ranks", "rounds"), [(8, 2, 2), (9, 2, 3), (3, 2, 1), (7, 3, 2)])
def test_last_batches_are_filled_up_with_the_blank_row(rows: int, ranks: int, rounds: int) -> None:
    filled = Filled(BatchSampler(SequentialSampler(range(rows)), 2, drop_last=False), ranks, blank=99)
    batches = list(filled)
    assert len(batches) == len(filled) == rounds * ranks
    assert {len(batch) for batch in batches} == {2}
    together = [row for batch in batches for row in batch]
    assert together == [*range(rows), *[99] * (len(together) - rows)]


def test_more_devices_at_work_than_the_batch_is_shared_among_are_refused(tmp_path: Path) -> None:
    """And fewer: one process would take half of the batch, under the key of the whole one."""
    its = Trainings(tmp_path)
    begin(1)
    with pytest.raises(RuntimeError, match="1 devices train where the batch was shared among 2"):
        finetune.run([its.two(CASES["whole batches"], "alone")])
    assert not list((tmp_path / "two alone").iterdir())
