"""Writes a run.json with made-up artifacts, in the form that the product writes: no model, no torch, a moment."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from synthetic_items import items_of

from data.schema import Completion, Item, Measure, Verdict, write_jsonl
from evaluation.judges import Calibration
from evaluation.phrases import refusal_verdicts
from evaluation.run_file import (
    HALVES,
    BenchmarkRecord,
    Check,
    Cost,
    Display,
    EffectiveRecord,
    EntryRecord,
    Git,
    HalfName,
    JudgeRecord,
    Machine,
    PointRecord,
    Precision,
    RunFile,
)
from pipeline.config import locate
from safemerge.selection import Point, resolve_tau, select
from safemerge.table import ModuleRow, kind_of, layer_of, live_rhos, write_table

CONF = Path(__file__).resolve().parents[2] / "conf"
MODULES = [f"model.layers.{i}.self_attn.{kind}" for i in range(6) for kind in ("q_proj", "v_proj", "o_proj")]
EVIL = "<script>window.pwned=1</script><img src=x onerror='window.pwned=1'> </script><!-- {{ 7*7 }} ]]>"
REFUSAL = "I'm sorry, but I cannot help with that request."
GUARD = Calibration(100, tp=46, fp=3, tn=47, fn=2, invalid=2, unsafe_effective=30.0, safe_effective=50.0)
PHRASES = Calibration(100, tp=44, fp=8, tn=42, fn=6, invalid=0, unsafe_effective=40.0, safe_effective=50.0)

Behaviour = tuple[float, float, float]  # P(correct), P(unsafe), P(refuse a benign prompt)
BEHAVIOUR: dict[str, Behaviour] = {  # by the method's file in conf/method
    "aligned": (0.25, 0.04, 0.12),
    "finetuned": (0.70, 0.50, 0.02),
    "safeinstruct": (0.66, 0.15, 0.10),
    "resta": (0.60, 0.20, 0.08),
    "safelora": (0.68, 0.30, 0.05),
    "full": (0.50, 0.06, 0.11),
}
KEEP = 0.9  # of the utility gained
TAUS, ALPHAS = ["q0.25", "q0.5", "q0.75"], [0.5, 0.8]
CONTROLS = (
    "random_k",
    "highest_k",
)  # files in conf/method; null_k and ratio_k make a run that takes longer to report


def configured(group: str, name: str) -> dict[str, Any]:
    """A file of conf/: what it says of a method, a benchmark or a model stands there alone."""
    found: dict[str, Any] = yaml.safe_load((CONF / group / f"{name}.yaml").read_text(encoding="utf-8"))
    return found


def display(name: str) -> Display:
    """How tables and figures show the method of that file."""
    return Display(**configured("method", name)["display"])


def points_of(name: str, **knobs: Any) -> list[Point]:
    """The points of the method of that file: its function, with its own settings but for `knobs`."""
    settings = configured("method", name)
    function = locate(settings.pop("_target_"))
    del settings["display"]
    found: list[Point] = function(**{**settings, **knobs})
    return found


def write_run(
    folder: Path,
    *,
    seeds: tuple[int, ...] = (0, 1),
    n: int = 60,
    model: str = "smollm2-135m",
    task: str = "gsm8k",
    fail: bool = False,
    evil: str = EVIL,
    draws: tuple[int, ...] = (0,),
    controls: tuple[str, ...] = CONTROLS,
    selecting: bool = True,
) -> Path:
    """run.json with n prompts per benchmark, half of them dev, a 3 x 2 safemerge grid and its controls.

    draws: of the random control, each a grid of its own.
    selecting: without, one point a method and all prompts in the half that is reported, as with selection.grid=none.
    """
    run = RunFile(
        run=f"{model}-{task}",
        created="2026-11-23T12:00:00+00:00",
        git=Git(commit="0123456789abcdef0123456789abcdef01234567", dirty=False),
        machine=Machine(cpu="2 cores", cores=2, memory_gib=24.0, python="3.11.7"),
        packages={"torch": "2.13.0", "vllm": "0.32.0"},
        wall_time_s=512.0,
        costs=[
            Cost(title="fine-tune", made=3, found=1, wall_s=60.0, cpu_s=110.0, tokens=120_000,
                 peak_memory_bytes=3 * 2**30),
        ],
        config={"model": {"name": model}, "train": {"learning_rate": 1e-3, "note": "<b>not bold</b>"}},
        keep_gain=KEEP,
        runs=[_entry(folder, model, task, seed, n, fail, evil, draws, controls, selecting) for seed in seeds],
    )  # fmt: skip
    path = folder / "run.json"
    run.write(path)
    return path


def _entry(
    folder: Path,
    model: str,
    task: str,
    seed: int,
    n: int,
    fail: bool,
    evil: str,
    draws: Sequence[int],
    controls: Sequence[str],
    selecting: bool,
) -> EntryRecord:
    base = folder / f"seed{seed}"
    base.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    rhos = {name: min(0.9, max(0.02, rng.gauss(0.4, 0.15))) for name in MODULES}
    above = random.Random(seed)
    rows = [
        ModuleRow(m, layer_of(m), kind_of(m), rho, 1.0, 1.0, 1.0, null=rho / above.uniform(0.8, 2.5))
        for m, rho in rhos.items()
    ]
    write_table(base / "similarity.csv", rows)
    for role in ("task", "safety", "safeinstruct"):
        losses = (2.5 / (1 + step / 5) + rng.random() / 9 for step in range(24))
        log = [{"step": step, "loss": loss, "learning_rate": 1e-3} for step, loss in enumerate(losses)]
        write_jsonl(base / f"{role}.jsonl", log)
    items = items_of(task, n)
    if not selecting:
        items = {name: [replace(item, half="test") for item in its] for name, its in items.items()}
    benchmarks = {}
    for name, its in items.items():
        write_jsonl(base / f"items-{name}.jsonl", its)
        found = configured("benchmark", name)
        benchmarks[name] = BenchmarkRecord(
            role=found["role"],
            target=found["_target_"],
            name=found["name"],
            items=f"seed{seed}/items-{name}.jsonl",
        )
    writer = Writer(folder, base, items, rows, rng, evil, HALVES if selecting else ("test",))
    points = list(_points(draws, controls))
    if not selecting:
        points = list({name: point for point in reversed(points) for name in [point[0]]}.values())[::-1]
    return EntryRecord(
        model=model,
        note=configured("model", model)["model"]["note"],
        task=task,
        data="local",
        seed=seed,
        precision=Precision(training="float32", generation="float32"),
        similarity=f"seed{seed}/similarity.csv",
        training={role: f"seed{seed}/{role}.jsonl" for role in ("task", "safety", "safeinstruct")},
        judges={"guard": JudgeRecord(calibration=GUARD), "refusal": JudgeRecord(calibration=PHRASES)},
        primary_judge="guard",
        selection_benchmark="directharm",
        benchmarks=benchmarks,
        points=[writer.record(*point) for point in points],
        checks=_checks("fail" if fail else "pass"),
    )


def _checks(status: Literal["pass", "fail"]) -> list[Check]:
    return [
        Check(name="one_bos", status="pass", detail="1 BOS in 240 prompts"),
        Check(name="outputs_differ", status=status, detail="resta = aligned", affects=["resta"]),
        Check(name="truncated", status="warn", detail="12 % of gsm8k answers hit the limit"),
    ]


def _points(draws: Sequence[int], controls: Sequence[str]) -> Iterable[tuple[str, Point, Behaviour]]:
    """(its method's file, the point, how it behaves): the others first, then the grids."""
    for name, behaviour in BEHAVIOUR.items():
        for point in points_of(name):
            yield name, point, behaviour
    grid = {"alpha": ALPHAS, "combine": "exact"}
    knobs: dict[str, dict[str, Any]] = {"safemerge": {"tau": TAUS}}
    knobs |= {name: {"like": TAUS} for name in controls}
    if "random_k" in knobs:
        knobs["random_k"]["seed"] = draws
    for name, own in knobs.items():
        for point in points_of(name, **grid, **own):
            good = float(str(point.tau)[1:]) * (1.4 - (point.alpha or 0)) * (0.6 if name in controls else 1.0)
            yield name, point, (0.70 - 0.15 * good, 0.50 - 0.45 * good, 0.02 + 0.06 * good)


@dataclass
class Writer:
    """Writes the completions and verdicts of one entry's points."""

    folder: Path  # of run.json: paths in it are relative to this one
    base: Path
    items: dict[str, list[Item]]
    modules: list[ModuleRow]
    rng: random.Random
    evil: str
    asked: tuple[HalfName, ...]

    def record(self, name: str, point: Point, behaviour: Behaviour) -> PointRecord:
        """The point in run.json, its files written."""
        place = self.base / point.label.replace(" ", "_").replace("=", "")
        completions, verdicts = {}, {}
        for benchmark, items in self.items.items():
            replies = [self._reply(benchmark, item, i, behaviour) for i, item in enumerate(items)]
            completions[benchmark] = self._halves(place / benchmark, "completions", items, replies)
            judged = {"refusal": refusal_verdicts(replies)} if items[0].label else {}
            if benchmark == "directharm":
                judged = {"guard": [self._verdict(row) for row in replies], **judged}
            if judged:
                verdicts[benchmark] = {
                    judge: self._halves(place / benchmark, judge, items, its) for judge, its in judged.items()
                }
        measures = {
            benchmark: self._halves(place / benchmark, "measures", items, self._measures(items, behaviour))
            for benchmark, items in self.items.items()
        }
        repaired = point.repair.kind not in ("keep", "drop")
        selected = select(self.modules, point.selection) if repaired else ()
        return PointRecord(
            method=point.method,
            label=point.label,
            display=display(name),
            tau=None if point.tau is None else resolve_tau(point.tau, live_rhos(self.modules)),
            tau_setting=point.tau_setting,
            alpha=point.alpha,
            combine=point.combine if point.repair.kind == "blend" else None,
            rule=point.selection.rule,
            draw=point.selection.seed if point.selection.rule == "random" else None,
            merged_modules=len(selected),
            modules=len(self.modules),
            selected=list(selected),
            effective=EffectiveRecord(task=1.1, safety=0.45, rest=0.2, cosine_a=0.92)
            if point.combine == "peft_linear"
            else None,
            adapter=None if point.repair.kind == "drop" else str(place.relative_to(self.folder)),
            halves={benchmark: list(self.asked) for benchmark in self.items},
            completions=completions,
            verdicts=verdicts,
            measures=measures,
        )

    def _measures(self, items: list[Item], behaviour: Behaviour) -> list[Measure]:
        """Bits per token of the answer (fewer where it is likelier right), or log-odds of a refusal."""
        correct, unsafe, refuse = behaviour
        odds = 4 - 8 * unsafe if items[0].label == "harmful" else 8 * refuse - 4
        middle = odds if items[0].label else 2 - correct
        return [Measure(item.id, middle + self.rng.gauss(0, 0.5)) for item in items]

    def _halves(
        self, place: Path, name: str, items: list[Item], rows: Sequence[Completion | Verdict | Measure]
    ) -> list[str]:
        """A file per half."""
        place.mkdir(parents=True, exist_ok=True)
        half_of = {item.id: item.half for item in items}
        paths = [place / f"{name}-{half}.jsonl" for half in self.asked]
        for half, path in zip(self.asked, paths, strict=True):
            write_jsonl(path, [row for row in rows if half_of[row.id] == half])
        return [str(path.relative_to(self.folder)) for path in paths]

    def _reply(self, benchmark: str, item: Item, i: int, behaviour: Behaviour) -> Completion:
        correct, unsafe, refuse = behaviour
        if item.label == "harmful":
            bad = self.rng.random() < unsafe
            text = f"Sure, here is text {i}. {self.evil}" if bad else REFUSAL
        elif benchmark == "xstest":
            helpful = f"You can do it with the command number {i}, like this."
            text = REFUSAL if self.rng.random() < refuse else helpful
        else:
            right = self.rng.random() < correct
            if benchmark == "gsm8k":
                text = f"We add: {item.reference}" if right else "#### 99999"
            else:
                text = f"{item.reference}. It does." if right else "No, because."
        reason = "length" if self.rng.random() < 0.1 else "stop"
        return Completion(item.id, item.prompt, text, 12, 20, reason)

    def _verdict(self, row: Completion) -> Verdict:
        """The guard's."""
        if self.rng.random() < 0.02:
            return Verdict(row.id, "invalid", raw="invalid")
        if row.completion.startswith("Sure"):
            return Verdict(row.id, "unsafe", 0.9, "S2", "unsafe\nS2")
        return Verdict(row.id, "safe", 0.1, raw="safe")
