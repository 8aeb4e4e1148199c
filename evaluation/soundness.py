"""How far the numbers of a group can be trusted: judges, checks, broken completions, power, and what must be said.

Together with `evaluation.analysis`, which holds the numbers themselves.
"""

from __future__ import annotations

from evaluation import quality, statistics
from evaluation.choosing import Chosen, rate_of
from evaluation.judges import agreement, sensitivity_specificity
from evaluation.results import Entry, Point, Rows, primary, read_jsonl


def calibration(entries: list[Entry]) -> Rows:
    """Sensitivity and specificity of every judge that has a calibration set, per seed when they differ."""
    rows: Rows = []
    for entry in entries:
        for judge, its in (entry.spec.get("judges") or {}).items():
            counts = (its or {}).get("calibration")
            if not counts or any(r["judge"] == judge and r["counts"] == counts for r in rows):
                continue
            se, sp = sensitivity_specificity(counts)
            rows.append(
                {
                    "judge": judge,
                    "primary": judge == entry.judge,
                    "seed": entry.spec["seed"],
                    "counts": counts,
                    "sensitivity": vars(se),
                    "specificity": vars(sp),
                }
            )
    return rows


def usage(entries: list[Entry]) -> Rows:
    """What server judges were asked and what it cost, per seed."""
    return [
        {"judge": judge, "seed": entry.spec["seed"], **its["usage"]}
        for entry in entries
        for judge, its in (entry.spec.get("judges") or {}).items()
        if (its or {}).get("usage")
    ]


def agreements(entries: list[Entry]) -> Rows:
    """Every judge against the primary one, per harm benchmark, over all points of all seeds."""
    rows = []
    for benchmark in entries[0].benchmarks("harm"):
        others = {j for e in entries for p in e.points for j in p.scored.get(benchmark, {}) if j != e.judge}
        for judge in sorted(others):
            left, right = [], []
            for index, (entry, point) in enumerate((e, p) for e in entries for p in e.points):
                scored = point.scored.get(benchmark, {})
                if judge in scored and entry.judge in scored:
                    left += [{**r, "id": (index, r["id"])} for r in scored[entry.judge]]
                    right += [{**r, "id": (index, r["id"])} for r in scored[judge]]
            if left:
                rows.append(
                    {
                        "benchmark": benchmark,
                        "judges": [entries[0].judge, judge],
                        **agreement(left, right),
                    }
                )
    return rows


def failed_checks(entry: Entry, point: Point) -> Rows:
    """Failed checks of the entry that concern this point.

    Those that name it in `affects`, and those that name nothing.
    """
    return [
        check
        for check in entry.spec.get("checks") or []
        if check["status"] == "fail"
        and (not check.get("affects") or {point.label, point.method} & set(check["affects"]))
    ]


def checks(entries: list[Entry]) -> Rows:
    """All checks, failures first."""
    rows = [{"seed": e.spec["seed"], **check} for e in entries for check in e.spec.get("checks") or []]
    return sorted(rows, key=lambda g: {"fail": 0, "warn": 1}.get(g["status"], 2))


def qualities(entries: list[Entry], chosen: list[Chosen]) -> Rows:
    """Shares of each quality flag among the completions and of invalid verdicts, all prompts, over seeds."""
    rows = []
    for name in dict.fromkeys(name for points in chosen for name in points):
        pairs = [(e, points[name]) for e, points in zip(entries, chosen, strict=True) if name in points]
        for benchmark, role in entries[0].roles.items():
            texts = [row for _, p in pairs for row in p.completions.get(benchmark, [])]
            if texts:
                invalid = sum(row["invalid"] for e, p in pairs for row in primary(e, p, benchmark))
                counts = {**quality.shares(texts, prose=role != "utility"), "invalid": invalid}
                rows.append({"name": name, "benchmark": benchmark, "n": len(texts), **counts})
    return rows


def power(entries: list[Entry], chosen: list[Chosen]) -> Rows:
    """Per benchmark: the test half's n and the smallest difference from the fine-tuned rate that it can
    show.
    """
    rows = []
    base = next((p for p in chosen[0].values() if p.method == "finetuned"), None)
    for benchmark in entries[0].roles:
        rate = rate_of(entries[0], base, benchmark, "test")
        if rate.n:
            least = statistics.detectable_difference(rate.n, rate.value)
            rows.append({"benchmark": benchmark, "n": rate.n, "rate": rate.value, "difference": least})
    return rows


def notes(entries: list[Entry]) -> list[str]:
    """What a reader must know about the model itself and about the two ways of merging."""
    found = []
    if {"exact", "peft_linear"} <= {str(p.spec.get("combine")) for e in entries for p in e.points}:
        found.append(
            "Two arithmetics: *exact merge* is α·ΔW_task + (1−α)·ΔW_safety; *released merge* is what the authors' code "
            "does, PEFT's `linear`, which adds √α·A and √α·B of the adapters apart, so that cross terms come in. LoRAs "
            "trained from one seed start from the same A, and the cross terms then add up: the released merge does not "
            "scale the task update down, and adds more of the safety update than 1−α."
        )
    if str(entries[0].spec["model"]).lower() == "tiny":
        found.append(
            "TOY: a model of about a million parameters on its own sums, to show the experiment; not a result. "
            "Its refusals are coarse: read harm together with over-refusal."
        )
    if str(entries[0].spec["model"]).lower().startswith("smollm2"):
        found += [
            "SmolLM2-135M: the packaged SmolLM2-135M-Instruct weights serve as the *unaligned* (base) "
            "member of the pair; "
            "they comply with most harmful requests. The aligned member is those weights after a "
            "safety-tuning stage of ours."
        ]
    return found


def training_curves(entry: Entry) -> dict[str, Rows]:
    """The training logs by name, rows that have a loss."""
    logs = {
        name: read_jsonl(entry.path(path))
        for name, path in (entry.spec.get("training") or {}).items()
        if path
    }
    return {name: [row for row in rows if row.get("loss") is not None] for name, rows in logs.items()}
