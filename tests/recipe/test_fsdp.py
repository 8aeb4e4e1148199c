"""FSDP2 in two processes trains the adapter of one, and its checkpoint resumes.

accelerate shards on accelerators only: on a processor it would train by DDP and say nothing. What is between the launcher's
config and the saved adapter, torch's FSDP2 with gloo, runs on a processor all the same, once accelerate is told to.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.job import begin
from pipeline.stages import finetune
from tests.ranks import CASES, Trainings, weights

pytestmark = pytest.mark.recipe

#: Found by every Python that this one starts: ranks that have no GPU count as FSDP's, as ranks with one do.
TOLD = """
import os
if os.environ.get("ACCELERATE_USE_FSDP") == "true":
    from accelerate import state
    from torch.distributed.fsdp import FSDPModule
    plain, plugins = state.AcceleratorState.__init__, []
    def told(self, *arguments, fsdp_plugin=None, **more):
        plain(self, *arguments, fsdp_plugin=fsdp_plugin, **more)
        plugins.extend([fsdp_plugin] if fsdp_plugin else [])
        if plugins and self.distributed_type == state.DistributedType.MULTI_CPU:
            self.distributed_type, self.fsdp_plugin = state.DistributedType.FSDP, plugins[-1]
    state.AcceleratorState.__init__ = told
    from accelerate import accelerator
    prepare = accelerator.fsdp2_prepare_model
    def seen(*arguments):
        model = prepare(*arguments)
        parts = [p.to_local().numel() / p.numel() for n, p in model.named_parameters() if "q_proj.lora_A" in n]
        print("sharded:", sum(isinstance(m, FSDPModule) for m in model.modules()), "modules,", parts, flush=True)
        return model
    accelerator.fsdp2_prepare_model = seen
"""


def test_fsdp_trains_the_adapter_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    its = Trainings(tmp_path)
    names = ["whole batches", "accumulated", "by length"]
    begin(len(names))
    finetune.run([its.one(CASES[name], name) for name in names])
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(TOLD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    outcome = its.launch([its.two(CASES[name], name, "fsdp") for name in names], [], "fsdp")
    log = (tmp_path / "log").read_text()
    assert outcome.error is None, log[-4000:]
    assert log.count("sharded: ") == 2 * len(names) and "[0.5, 0.5]" in log, (
        "each rank holds half of every weight"
    )
    for name in names:
        together = weights(tmp_path / f"two {name}")
        for key, weight in weights(tmp_path / f"one {name}").items():
            torch.testing.assert_close(together[key], weight, rtol=1e-4, atol=1e-6)


def test_without_gpus_fsdp_is_not_quietly_something_else(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    its = Trainings(tmp_path)
    outcome = its.launch([its.two(CASES["whole batches"], "plain", "fsdp")], [], "fsdp")
    assert outcome.error is not None and "has not sharded the model" in outcome.error
