"""`make faults`: whole runs killed, shared and repeated, and readers fuzzed, as often as is promised; the result is a file.

python -m tests.promises --output docs/faults.json
python -m tests.promises --output FILE --kills 8 --fuzz 2000 --parts kills,fuzz

What is done is kept in the working folder: interrupted, the same command goes on; after a whole run in which all held, it
begins anew. `python -m tests.promises.page` makes
docs/promises.md of the result.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pipeline import provenance
from tests.promises import determinism, fuzzing, kills, sharing
from tests.promises.runs import KINDS, Place, outliving

PARTS = ("kills", "sharing", "determinism", "fuzz")
#: Of the runs that are killed: most in the cheapest way, some with engines in processes of their own.
ORDER = ("transformers", "vllm", "transformers", "engines")


class State:
    """What is done so far, in a file that is written after every step."""

    def __init__(self, folder: Path) -> None:
        self.path, self.lock = folder / "state.json", threading.RLock()
        self.known: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def get(self, name: str) -> Any:
        with self.lock:
            return self.known.get(name)

    def put(self, name: str, value: Any) -> None:
        with self.lock:
            self.known[name] = value
            whole = self.path.with_suffix(".partial")
            whole.write_text(json.dumps(self.known, indent=1))
            os.replace(whole, self.path)


class Command:
    """One call of `make faults`."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.work = options, options.work.absolute()
        self.work.mkdir(parents=True, exist_ok=True)
        self.state = State(self.work)
        asked = {"kills": options.kills, "fuzz": options.fuzz, "seed": options.seed}
        if self.state.get("asked") not in (None, asked):
            raise SystemExit(
                f"error: {self.work} holds a run of {self.state.get('asked')}: remove it, or ask for the same"
            )
        self.state.put("asked", asked)
        code, known = provenance.git().model_dump(), self.state.get("code") or []
        self.state.put("code", known if code in known else [*known, code])
        self.kinds = [
            kind for kind in ORDER if kind != "vllm" or importlib.util.find_spec("vllm") is not None
        ]

    def say(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)

    def timed(self, name: str, start: float) -> None:
        """Add the time (s) since `start` to what a part has taken."""
        self.state.put(
            f"{name}/seconds", (self.state.get(f"{name}/seconds") or 0.0) + time.monotonic() - start
        )

    def reference(self, kind: str, second: bool = False) -> tuple[dict[str, float], dict[str, str]]:
        """An undisturbed run of that kind: the time at each place (s), and its results."""
        name = f"undisturbed/{kind}{'/again' if second else ''}"
        if (known := self.state.get(name)) is None:
            place = Place(self.work / name.replace("/", "-"), kind)
            shutil.rmtree(place.folder, ignore_errors=True)
            start = time.monotonic()
            spent = kills.undisturbed(place)
            problems = [*outliving(place)[0], *kills.unsound(place), *kills.left(place)]
            if problems:
                raise SystemExit(f"error: an undisturbed run of {kind} leaves {problems}")
            self.say(f"undisturbed {kind}: {time.monotonic() - start:.0f} s")
            known = {"spent": spent, "results": place.results()}
            self.state.put(name, known)
        return known["spent"], known["results"]

    def kill_part(self) -> None:
        """Lives until there have been enough kills, as many at a time as there are lanes."""
        for kind in dict.fromkeys(self.kinds):
            self.reference(kind)
        number = 0
        while True:
            lives = [self.life(number + lane) for lane in range(self.options.lanes)]
            done = sum(len(life.kills) for life in map(self.life, range(number)))
            if done >= self.options.kills:
                return
            with ThreadPoolExecutor(self.options.lanes) as pool:
                list(pool.map(self.one, lives))
            number += self.options.lanes

    def life(self, number: int) -> kills.Life:
        """That life as far as it has come."""
        name = f"life/{number}"
        its = self.state.get(name)
        if its is None:
            return kills.Life(name, self.kinds[number % len(self.kinds)])
        return kills.Life(**{**its, "kills": [kills.Kill(**kill) for kill in its["kills"]]})

    def one(self, life: kills.Life) -> None:
        """Go through a life, unless it has been gone through."""
        if life.finished:
            return
        spent, results = self.reference(life.kind)
        place = Place(self.work / life.name.replace("/", "-"), life.kind)
        for process in place.members():  # of a call that was itself killed
            process.kill()
        draw = random.Random(f"{self.options.seed}/{life.name}/{len(life.kills)}")
        kills.live(
            life, place, kills.PLACES, spent, results, draw, lambda: self.state.put(life.name, life.record())
        )
        problems = [*life.problems, *(p for kill in life.kills for p in kill.problems)]
        self.say(
            f"{life.name} ({life.kind}): {len(life.kills)} kills, {len(life.differing)} files differ"
            + "".join(f"\n    {problem}" for problem in problems)
        )
        if not problems and not life.differing:
            shutil.rmtree(place.folder, ignore_errors=True)

    def sharing_part(self) -> None:
        """Four processes on one store, undisturbed, and one of them killed in the middle of its trainings."""
        _, results = self.reference("transformers")
        for name, kill_in in (("sharing/undisturbed", None), ("sharing/killed", "finetune")):
            if self.state.get(name) is None:
                place = Place(self.work / name.replace("/", "-"), "transformers")
                shutil.rmtree(place.folder, ignore_errors=True)
                found = sharing.shared(place, results, kill_in=kill_in)
                self.say(f"{name}: {found.record()}")
                self.state.put(name, found.record())

    def determinism_part(self) -> None:
        """Each kind again, on the same machine with the same seed; vLLM also with all prompts in one batch."""
        for kind in dict.fromkeys(kind for kind in self.kinds if kind != "engines"):
            _, first = self.reference(kind)
            _, second = self.reference(kind, second=True)
            self.state.put(f"determinism/{kind}", determinism.by_stage(first, second))
        if "vllm" in self.kinds and self.state.get("determinism/batched") is None:
            alone = Place(self.work / "undisturbed-vllm", "vllm")
            place = Place(self.work / "batched", "vllm", ("generation.max_num_seqs=256",))
            self.state.put("determinism/batched", determinism.batched(alone, place).record())
            self.say(f"batched: {self.state.get('determinism/batched')}")

    def fuzz_part(self) -> None:
        """The fuzz tests, one at a time, until there have been enough inputs."""
        tests = fuzzing.tests()
        each = -(-self.options.fuzz // sum(map(len, tests.values())))

        def one(file: str) -> None:
            names = [name for name in tests[file] if self.state.get(f"fuzz/{name}") is None]
            # A few at a time, so that a call that is interrupted has not done them all in vain.
            for start in range(0, len(names), 3):
                some = names[start : start + 3]
                for name, found in fuzzing.run(file, some, each, self.options.seed, self.work).items():
                    self.state.put(f"fuzz/{name}", found)
                    self.say(f"{name}: {found}")

        with ThreadPoolExecutor(self.options.lanes) as pool:
            list(pool.map(one, tests))

    def run(self) -> None:
        """The parts asked for, in order."""
        steps = {
            "kills": self.kill_part,
            "sharing": self.sharing_part,
            "determinism": self.determinism_part,
            "fuzz": self.fuzz_part,
        }
        for name in self.options.parts:
            start = time.monotonic()
            try:
                steps[name]()
            finally:
                self.timed(name, start)

    def result(self) -> dict[str, Any]:
        """What is shown of it: no times of single kills, no hashes."""
        known = {name: value for name, value in sorted(self.state.known.items())}
        lives = [its for name, its in known.items() if name.startswith("life/") and its["finished"]]

        def of(part: str) -> dict[str, Any]:
            named = {
                name.partition("/")[2]: its for name, its in known.items() if name.startswith(f"{part}/")
            }
            return {name.rpartition("::")[2]: its for name, its in named.items() if name != "seconds"}

        return {
            **{
                name: its
                for name, its in provenance.collect().items()
                if name in ("created", "git", "machine")
            },
            "asked": known["asked"],
            "code": known["code"],
            "seconds": {name: round(known.get(f"{name}/seconds", 0.0)) for name in PARTS},
            "lives": lives,
            **{part: of(part) for part in ("sharing", "determinism", "fuzz")},
        }


def failures(result: dict[str, Any]) -> list[str]:
    """What did not hold."""
    found = [
        f"{life['name']}: {problem}"
        for life in result["lives"]
        for problem in [*life["problems"], *(p for kill in life["kills"] for p in kill["problems"])]
    ]
    found += [
        f"{life['name']}: {len(life['differing'])} files differ"
        for life in result["lives"]
        if life["differing"]
    ]
    for name, its in result["sharing"].items():
        found += [f"sharing, {name}: {problem}" for problem in its["problems"]]
        found += [f"sharing, {name}: {len(its['differing'])} files differ"] if its["differing"] else []
    found += [f"fuzzing, {name}: {its['failed']}" for name, its in result["fuzz"].items() if its["failed"]]
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit 0 if all held, otherwise 1."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.promises", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--output", type=Path, required=True, help="the result file to write")
    parser.add_argument("--work", type=Path, default=Path("outputs/faults"), help="the working folder")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--fuzz", type=int, default=100_000, help="inputs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lanes", type=int, default=2, help="runs at a time; each uses one core")
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS))
    options = parser.parse_args(arguments)
    if unknown := [part for part in options.parts if part not in PARTS]:
        parser.error(f"--parts={unknown[0]} is none of {', '.join(PARTS)}")
    command = Command(options)
    command.run()
    result = command.result()
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    wrong = failures(result)
    print("\n".join(wrong) or "all held")
    if not wrong and set(options.parts) == set(PARTS):
        shutil.rmtree(command.work)  # the next call begins anew
    return int(bool(wrong))


if __name__ == "__main__":
    assert set(ORDER) <= set(KINDS)
    sys.exit(main())
