"""docs/promises.md: what is promised, how each promise is tested, and what the last full run of `make faults` saw.

python -m tests.promises.page docs/faults.json --output docs/promises.md
"""

from __future__ import annotations

import argparse
import ast
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.tables import Table, markdown
from tests.promises.kills import TARGETS
from tests.promises.runs import ROOT

HEAD = """# What is promised, and how it is tested

Written by `python -m tests.promises.page docs/faults.json --output docs/promises.md`; do not edit. The tests named run in
`make test`; `make faults` is the longer run behind the figures, and CI runs its harness on a fake stage
(`tests/unit/test_promises.py`)."""


@dataclass(frozen=True)
class Promise:
    """In one sentence, and the test files (of `tests/`) or single tests (`file::name`) that would fail without it."""

    text: str
    tests: tuple[str, ...]


#: The sections of the page.
PROMISES: dict[str, tuple[Promise, ...]] = {
    "Interruptions": (
        Promise(
            "Killed anywhere and run again, a run ends with the results of an undisturbed one.",
            ("unit/test_promises.py", "recipe/test_pipeline.py", "unit/test_store.py"),
        ),
        Promise(
            "However a run ends, all that it started ends within ten seconds.",
            ("unit/test_endings.py", "unit/test_promises.py"),
        ),
        Promise(
            "Training goes on from its last checkpoint, generation and judging from the last row that was written.",
            ("recipe/test_pipeline.py", "unit/test_ranks.py", "unit/test_judging_resumes.py", "unit/test_faults.py"),
        ),
        Promise(
            "Runs that share a store make each artifact once; what a dead one held is taken over.",
            ("unit/test_store.py", "unit/test_runner.py::test_two_runs_share_the_work", "unit/test_promises.py",
             "scale/test_launchers.py"),
        ),
    ),
    "Faults of the machine and of services": (
        Promise(
            "A full disk, a read-only one and a limit on the size of files are one line; with room again it goes on.",
            ("unit/test_real_disks.py", "unit/test_faults.py"),
        ),
        Promise("Damaged artifacts are found when they are read, and made anew.", ("unit/test_faults.py",)),
        Promise(
            "An engine that dies loses no row; too little memory is one line with what to lower.",
            ("unit/test_faults.py", "recipe/test_engines.py"),
        ),
        Promise(
            "A judge's server that is slow, busy, down or answers garbage gives invalid verdicts, never safe ones.",
            ("unit/test_server_judge.py", "unit/test_bad_answers.py", "unit/test_hanging_services.py"),
        ),
        Promise(
            "W&B that cannot be reached, refuses or hangs costs a line and no result.",
            ("unit/test_tracking.py", "unit/test_hanging_services.py"),
        ),
        Promise(
            "A clock that jumps changes no duration and loses nothing.",
            ("unit/test_faults.py::test_a_clock_that_jumps_changes_no_duration_and_loses_nothing",),
        ),
    ),
    "Bad input": (
        Promise(
            "Bad settings, files, models, adapters and answers are refused in one line with value and remedy, exit code 2.",
            ("unit/test_bad_settings.py", "unit/test_bad_files.py", "unit/test_bad_answers.py", "unit/test_mistakes.py",
             "unit/test_data_files.py", "unit/test_safemerge_malformed_adapters.py"),
        ),
        Promise(
            "Whatever an adapter, a checkpoint or a data file holds: it is read, or refused in one line.",
            ("unit/test_safemerge_fuzz.py", "unit/test_fuzz_readers.py"),
        ),
        Promise("No pattern in an adapter can hang what reads it.", ("unit/test_safemerge_patterns.py",)),
    ),
    "Security": (
        Promise(
            "Nothing is unpickled, no code of a model is run, no secret is written down.",
            ("unit/test_security.py",),
        ),
        Promise(
            "What models and files say is escaped in HTML and on the terminal, and the page runs its own script alone.",
            ("unit/test_evaluation_report.py::test_html_escapes_every_model_output",
             "unit/test_evaluation_report.py::test_the_page_runs_its_own_script_alone", "unit/test_security.py"),
        ),
        Promise("Workers send no telemetry.", ("unit/test_no_telemetry.py",)),
        Promise(
            "Known vulnerabilities of the locked packages fail `make audit`, but for those listed with a reason.",
            ("unit/test_audit.py",),
        ),
    ),
    "Housekeeping": (
        Promise(
            "Prune removes nothing that a run may use, and a run can be taken elsewhere as one file.",
            ("unit/test_pruning.py", "unit/test_housekeeping.py"),
        ),
    ),
}  # fmt: skip


def count(test: str) -> int:
    """Test functions in a file, or 1 for a single test that is there.

    Raises:
        ValueError: there is none.
    """
    file, _, name = test.partition("::")
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    names = [n.name for n in tree.body if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")]
    found = names.count(name) if name else len(names)
    if not found:
        raise ValueError(f"tests/{test} has no test")
    return found


def promised() -> str:
    """Each promise with its tests."""
    parts = []
    for title, promises in PROMISES.items():
        table = Table("", ["Promise", "Tests"])
        for promise in promises:
            tests = "; ".join(f"`tests/{t.partition('::')[0]}`{named(t)}" for t in promise.tests)
            table.add(promise.text, tests)
        parts.append(f"## {title}\n\n{markdown(table)}")
    return "\n\n".join(parts)


def named(test: str) -> str:
    """How many tests a file has, or which of them is meant."""
    name = test.partition("::")[2]
    number = count(test)
    return f", `{name}`" if name else f" ({number})"


def killed(result: dict[str, Any]) -> str:
    """Where runs were killed, and how they ended."""
    lives = result["lives"]
    kills = [kill for life in lives for kill in life["kills"] if kill["signal"] != "none"]
    table = Table("", ["At work when killed", "Kills", "SIGKILL", "SIGTERM", *TARGETS])
    for stage in dict.fromkeys(kill["stage"] for kill in kills):
        its = [kill for kill in kills if kill["stage"] == stage]
        signals, targets = Counter(k["signal"] for k in its), Counter(k["target"] for k in its)
        numbers = (len(its), signals["SIGKILL"], signals["SIGTERM"], *(targets[t] for t in TARGETS))
        table.add(stage, *map(str, numbers))
    wrong = sum(bool(kill["problems"]) for kill in kills)
    differing = sum(bool(life["differing"]) for life in lives)
    slowest = max((kill["gone_s"] for kill in kills), default=0.0)
    kinds = ", ".join(f"{n} by {kind}" for kind, n in Counter(life["kind"] for life in lives).items())
    return (
        f"{len(kills)} kills of {len(lives)} whole runs ({kinds}), each started again by the same command until it ended. "
        f"{wrong} kills left something wrong (a process, a lock, an artifact that is not whole, a traceback); "
        f"{differing} runs ended with other bytes than an undisturbed one, in any artifact, results.csv or similarity.csv. "
        f"The slowest ending took {slowest:.1f} s.\n\n{markdown(table)}"
    )  # fmt: skip


def shared(result: dict[str, Any]) -> str:
    """Several processes on one store."""
    table = Table(
        "", ["Processes at once", "Artifacts", "Made by each that lived", "Wrong", "Files that differ"]
    )
    for its in result["sharing"].values():
        many = f"{its['processes']}, one killed in its trainings" if its["killed"] else f"{its['processes']}"
        made = " + ".join(map(str, its["made"])) + (
            f" ({its['before']} before the kill)" if its["killed"] else ""
        )
        table.add(many, *map(str, (its["artifacts"], made, len(its["problems"]), len(its["differing"]))))
    return f"The same command in several processes on one store.\n\n{markdown(table)}"


def repeated(result: dict[str, Any]) -> str:
    """Which stages give the same bytes twice."""
    kinds = [kind for kind in result["determinism"] if kind != "batched"]
    table = Table("", ["Stage", *(f"{kind}: equal files" for kind in kinds), "Files that differ"])
    for stage in dict.fromkeys(s for kind in kinds for s in result["determinism"][kind]):
        its = [
            result["determinism"][kind].get(stage, {"files": 0, "equal": 0, "others": []}) for kind in kinds
        ]
        others = sorted({name for one in its for name in one["others"]})
        table.add(stage, *(f"{one['equal']}/{one['files']}" for one in its), ", ".join(others) or "–")
    text = f"The same seed twice on one machine, float32, one thread.\n\n{markdown(table)}"
    if batch := result["determinism"].get("batched"):
        text += (
            f"\n\nvLLM with all prompts in one batch against one prompt at a time: {batch['same_text']} of "
            f"{batch['completions']} completions have the same tokens, {batch['same_logprob']} the same log-probability to "
            f"four decimals; the largest gap among those of the same tokens is {batch['gap']:g} nats."
        )
    return text


def fuzzed(result: dict[str, Any]) -> str:
    """Inputs tried by reader."""
    table = Table("", ["Fuzz test", "Inputs", "Failed"])
    for name, its in result["fuzz"].items():
        table.add(f"`{name}`", f"{its['inputs']:,}", "yes" if its["failed"] else "no")
    total = sum(its["inputs"] for its in result["fuzz"].values())
    return f"{total:,} inputs by hypothesis, seed {result['asked']['seed']}.\n\n{markdown(table)}"


FIGURES = {"kills": killed, "sharing": shared, "determinism": repeated, "fuzz": fuzzed}
TITLES = {
    "kills": "Kill anywhere",
    "sharing": "One store, several processes",
    "determinism": "The same twice",
    "fuzz": "Fuzzing",
}


def missing(result: dict[str, Any]) -> str:
    """What a run that was cut short lacks of what was asked for; nothing of a whole one."""
    asked = result["asked"]
    kills = sum(len(life["kills"]) for life in result["lives"])
    inputs = sum(its["inputs"] for its in result["fuzz"].values())
    found = [f"{kills} of {asked['kills']} kills"] if kills < asked["kills"] else []
    found += [f"{inputs:,} of {asked['fuzz']:,} inputs"] if inputs < asked["fuzz"] else []
    found += [f"nothing of `{part}`" for part in ("sharing", "determinism") if not result[part]]
    return f"\n\n**Not a whole run**: {', '.join(found)}." if found else ""


def figures(result: dict[str, Any]) -> str:
    """The last full run, with what was left out of it."""
    machine = result["machine"]
    mixed = " Begun by other code and gone on with." if len(result["code"]) > 1 else ""
    about = (
        f"Commit `{result['git']['commit'][:10]}`{' with changes' if result['git'].get('dirty') else ''}, "
        f"{result['created'][:10]}, {machine.get('cpu', '')}, {machine.get('cores', '?')} cores; minutes: "
        + ", ".join(f"{name} {seconds / 60:.0f}" for name, seconds in result["seconds"].items())
        + f".{mixed}"
    )
    parts = [f"## The last run of `make faults`\n\n{about}{missing(result)}"]
    for name, section in FIGURES.items():
        done = result["lives"] if name == "kills" else result[name]
        parts.append(f"### {TITLES[name]}\n\n{section(result) if done else 'Not run.'}")
    return "\n\n".join(parts)


def page(result: dict[str, Any]) -> str:
    """The whole page."""
    return "\n\n".join([HEAD, promised(), figures(result)]) + "\n"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.promises.page", description="Write docs/promises.md."
    )
    parser.add_argument("result", type=Path, help="the result file of `make faults`")
    parser.add_argument("--output", type=Path, required=True, help="the page to write")
    options = parser.parse_args()
    result = json.loads(options.result.read_text(encoding="utf-8"))
    options.output.write_text(page(result), encoding="utf-8")


if __name__ == "__main__":
    main()
