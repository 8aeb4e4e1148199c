"""What of a run at the paper's scale was executed here, and what it takes: the page docs/scale.md.

python -m tests.scale.page --output docs/scale.md

Made from docs/scale/*.json: tests.json (`make scale`), memory.json (`python -m tests.scale.peaks`), sweep.json
(`python -m tests.benchmarks.sweep`); hours, money and disk come from `pipeline.budget`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from evaluation.tables import Table, markdown
from pipeline.memory import GIB
from tests.scale.paths import PATHS, REMAINING
from tests.scale.peaks import SHAPES, Case, compared, error_of

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "scale"
HEAD = """# At the paper's scale

Written by `python -m tests.scale.page --output docs/scale.md` from docs/scale/*.json; do not edit. No 7B or 8B model was
run: what stands here is by what else each path of such a run was executed, when, and by which test."""
Rows = list[dict[str, Any]]
MODELS = ("llama2-7b", "llama3.1-8b", "qwen2-7b", "qwen2.5-7b")


def stages(tests: Rows) -> str:
    """The stages that runs of the paper's models went through, as those runs themselves recorded them."""
    table = Table("", ["Model", "Stage", "What", "By", "Date", "Commit", "Test"])
    for row in tests:
        for its in row.get("executed", []) if row["outcome"] == "passed" else []:
            model, stage, what, by = its.split("|")
            table.add(
                model, stage, what or "–", by, row["date"], row["commit"], f"`{row['id'].split('/')[-1]}`"
            )
    missing = [] if table.rows else ["No run of a model is in docs/scale/tests.json: `make scale` makes it."]
    note = (
        "A miniature has the model's class, config keys, tokenizer and template, two layers and random weights; it comes "
        "from a hub on loopback and goes through vLLM, the guard's format and the report as the model itself would."
    )
    return "\n\n".join(
        ["## Each model, stage by stage", *([markdown(table)] if table.rows else []), *missing, note]
    )


def of_path(tests: Rows, beginnings: tuple[str, ...]) -> tuple[str, Rows]:
    """executed, failed, skipped or not run; and the tests."""
    found: Rows = []
    for beginning in beginnings:
        mine = [row for row in tests if row["id"].startswith(beginning)]
        if not mine:
            return "not run", found
        found += mine
    outcomes = {row["outcome"] for row in found}
    return ("failed" if "failed" in outcomes else "executed" if "passed" in outcomes else "skipped"), found


def paths(tests: Rows) -> str:
    """The other paths, those that ran first; then what did not run here, and what cannot."""
    done = Table("", ["Path", "By", "Tests", "Date", "Commit", "Where"])
    undone = Table("", ["Path", "Why"])
    for path in PATHS:
        status, found = of_path(tests, path.tests)
        where = ", ".join(f"`{test}`" for test in path.tests)
        if status == "executed":
            passed = [row for row in found if row["outcome"] == "passed"]
            oldest = min(passed, key=lambda row: row["date"])
            done.add(path.what, path.by, str(len(passed)), oldest["date"], oldest["commit"], where)
        else:
            why = next((row["why"] for row in found if row["outcome"] == status), "")
            undone.add(path.what, f"{status}: {why}" if why else status)
    parts = ["## The other paths", markdown(done), "Of several tests, date and commit are the oldest's."]
    parts += ["### Executable here, and not executed", markdown(undone)] if undone.rows else []
    rest = Table("", ["What", "Needs"])
    for its in REMAINING:
        rest.add(its.what, its.why)
    return "\n\n".join([*parts, "### What nothing here can execute", markdown(rest)])


def memory(found: Mapping[str, Any]) -> str:
    """The memory model against measured peaks."""
    table = Table(
        "",
        [
            "Shape",
            "Parameters, M",
            "Stage",
            "Precision",
            "Rows x tokens",
            "Devices",
            "Model, MiB",
            "Peak, MiB",
            "Off by",
        ],
    )
    for row in found["cases"]:
        case = Case(**{**row["case"], "targets": tuple(row["case"]["targets"])})
        said, seen = compared(case, row), row["peak"]
        ways = " checkpointing" if case.checkpointing else ""
        table.add(
            case.shape,
            f"{SHAPES[case.shape].parameters / 1e6:.1f}",
            case.stage + ways,
            case.dtype,
            f"{case.rows} x {case.length}",
            "1" if case.devices == 1 else f"{case.devices} ({case.parallel})",
            f"{said / 2**20:.0f}" + ("" if row.get("weights") or case.devices > 1 else " *"),
            f"{seen / 2**20:.0f}",
            f"{100 * error_of(case, row):+.0f} %",
        )
    errors = [
        abs(error_of(Case(**{**r["case"], "targets": tuple(r["case"]["targets"])}), r))
        for r in found["cases"]
    ]
    without = (
        "Of rows with a star the weights are in neither number: other threads had loaded them. "
        if any(not row.get("weights") and row["case"]["devices"] == 1 for row in found["cases"])
        else ""
    )
    packed = (
        "Of vLLM's the layers' weights are in neither number: on a CPU it packs them anew, out of torch's sight. "
        if any(row["case"]["stage"] == "vllm" for row in found["cases"])
        else ""
    )
    before = [row["before"] / GIB for row in found["cases"] if row["before"]]
    note = (
        "`pipeline/memory.py` counts weights, LoRA, its gradients and AdamW's state, what autograd keeps, "
        "logits and caches, "
        "term by term; `tests/unit/test_memory.py` holds the terms to transformers, PEFT and autograd. Peak: the most that "
        "torch had allocated at once in the stage's own process, with every row at full length; of two ranks, resident "
        "memory and the libraries are in both numbers. With the libraries loaded, a process of one holds "
        f"{min(before):.2f} to {max(before):.2f} GiB. Median error {100 * sorted(errors)[len(errors) // 2]:.0f} %, largest "
        f"{100 * max(errors):.0f} %, {len({row['case']['shape'] for row in found['cases']})} shapes. On a GPU "
        f"nothing of it "
        "was measured: fused attention and loss are counted there as their authors describe them, and the libraries are a "
        f"guess. {without}{packed}Measured {found['created'][:10]} at commit {str(found['git']['commit'])[:10]}."
    )
    return f"## Memory: the model against measured peaks\n\n{markdown(table)}\n\n{note}"


def sweep(found: Mapping[str, Any]) -> str:
    """What a point of a sweep costs."""
    points = found["points"]
    table = Table("", ["", "One engine for all", "A process and an engine each"])
    parts = "; ".join(f"{name} {seconds:.0f}" for name, seconds in found["shared_stages_s"].items())
    loading = found["apart_ready_s"] - found["apart_merged_s"]
    apart = (
        f"{found['apart_merged_s']:.1f} until it has merged, {loading:.1f} until the engine is ready, "
        f"{found['apart_generation_s']:.1f} after it"
    )
    table.add(f"{points} points, s", f"{found['shared_s']:.0f}", f"{found['apart_s']:.0f}")
    table.add("a point, s", f"{found['shared_s'] / points:.1f}", f"{found['apart_s'] / points:.1f}")
    table.add("of which, s", parts + " (all points)", apart + " (a point)")
    met = "met" if found["ratio"] >= found["bar"] else "**missed**"
    many, gain = (
        8.0,
        found["shared_stages_s"]["generation"] / points,
    )  # times as many prompts; what a point generates in
    ratio = (found["apart_s"] / points + (many - 1) * gain) / (found["shared_s"] / points + (many - 1) * gain)
    note = (
        f"smollm2-135m, {found['prompts']} prompts a point, {found['tokens']} tokens in all; "
        f"{100 * found['same_replies']:.0f} % of the replies are the same on both sides. **{found['ratio']:.1f} times less "
        f"time**, bar {found['bar']:g}: {met}. What is saved is a start for each point, so the ratio falls as "
        f"prompts are added: with {many:.0f} times as many it would be {ratio:.1f} or more (generation growing in "
        f"proportion on both sides; larger batches grow less). "
        f"Load average at the end {found['load_average']:.1f}. Measured {found['created'][:10]} at commit "
        f"{str(found['git']['commit'])[:10]} by `python -m tests.benchmarks.sweep`; a run's own report has "
        f"its cost per point."
    )
    return f"## What a sweep point costs\n\n{markdown(table)}\n\n{note}"


def budgets() -> str:
    """Hours, money and disk of the paper's models and of the experiments, by the plan's model."""
    from hydra import initialize_config_dir

    from pipeline import budget

    commands = [[f"model={model}", "hardware=1x80gb"] for model in MODELS]
    names = ("seeds", "safety_size", "merge_types", "safelora", "controls", "arithmetic", "sensitivity")
    commands += [[f"experiment={name}", "model=llama3.1-8b", "hardware=1x80gb"] for name in names]
    commands += [["experiment=paper", "hardware=1x80gb"]]
    columns = ["Command", "Jobs", "Trainings, h", "Generation, h", "Judges, h", "In all, h", "US dollars"]
    table = Table("", [*columns, "To download, GB", "Written, GB"])
    with initialize_config_dir(str(budget.CONF), version_base="1.3"):
        for command in commands:
            found, jobs = budget.of_experiment(command)
            hours = [f"{found.hours[stage]:.1f}" for stage in ("finetune", "generate", "judge")]
            table.add(
                f"`{' '.join(command[:-1])}`",
                str(jobs),
                *hours,
                f"{found.total:.1f}",
                f"{found.total * budget.A100.dollars:.0f}",
                f"{found.download_gb:.0f}",
                f"{found.store_gb:.0f}",
            )
    note = (
        f"One {budget.A100.name}, as conf/hardware/1x80gb.yaml sets it. **Guesses**: a roofline of its data sheet at "
        f"{budget.TRAINS:.0%} for trainings and {budget.WRITES:.0%} for generation, rows of "
        f"{budget.ROW_TOKENS} tokens, replies of "
        f"half their limit, {budget.A100.dollars:g} US dollars an hour; no GPU was measured. Rows, prompts, "
        f"points, downloads and "
        "adapters are counted. Jobs of an experiment share what they have in common; `python -m pipeline.budget` with any "
        "overrides, and `make plan`, say it for others."
    )
    return f"## Hours, money and disk\n\n{markdown(table)}\n\n{note}"


def times(models: Mapping[str, Any]) -> str:
    """Hours of each of the paper's models, for docs/replicate.md."""
    table = Table("", ["MODEL", "Trainings, h", "Generation, h", "Judge, h", "In all, h", "To download, GB"])
    for model, found in models.items():
        hours = [f"{found.hours[stage]:.1f}" for stage in ("finetune", "generate", "judge")]
        table.add(model, *hours, f"{found.total:.1f}", f"{found.download_gb:.0f}")
    note = (
        "Hours of one A100 with 80 GB for one task and seed, with every default method and the whole grid: **guesses** of "
        "`pipeline.budget`, whose assumptions stand in [scale.md](scale.md#hours-money-and-disk)."
    )
    return f"{markdown(table)}\n\n{note}"


def _with(name: str, section: Callable[[Any], str]) -> str:
    file = FOLDER / name
    if not file.exists():
        return ""
    return section(json.loads(file.read_text(encoding="utf-8")))


def measured() -> list[str]:
    """The sections that are made from what was measured or tested."""
    tests = FOLDER / "tests.json"
    rows: Rows = json.loads(tests.read_text(encoding="utf-8")) if tests.exists() else []
    found = [stages(rows), paths(rows), _with("memory.json", memory), _with("sweep.json", sweep)]
    return [section for section in found if section]


def page() -> str:
    """The whole page."""
    return "\n\n".join([HEAD, *measured(), budgets()]) + "\n"


def main() -> None:
    """Write the page."""
    from hydra import initialize_config_dir

    from pipeline import budget

    parser = argparse.ArgumentParser(
        prog="python -m tests.scale.page",
        description="Write docs/scale.md, and the times in docs/replicate.md.",
    )
    parser.add_argument("--output", type=Path, required=True, help="the page to write")
    options = parser.parse_args()
    options.output.write_text(page(), encoding="utf-8")
    with initialize_config_dir(str(budget.CONF), version_base="1.3"):
        found = {m: budget.of_experiment([f"model={m}", "hardware=1x80gb"])[0] for m in MODELS}
    guide = FOLDER.parent / "replicate.md"
    before, start, rest = guide.read_text(encoding="utf-8").partition("<!-- times:start -->\n")
    _, end, after = rest.partition("<!-- times:end -->")
    assert start and end, f"{guide} has lost its marks"
    guide.write_text(f"{before}{start}\n{times(found)}\n\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
