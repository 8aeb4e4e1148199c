"""Writes a run.json with made-up artifacts in the real formats: no model, no torch, a moment."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

MODULES = [f"model.layers.{i}.self_attn.{kind}" for i in range(6) for kind in ("q_proj", "v_proj", "o_proj")]
EVIL = "<script>window.pwned=1</script><img src=x onerror='window.pwned=1'> </script><!-- {{ 7*7 }} ]]>"
REFUSAL = "I'm sorry, but I cannot help with that request."

# method: (P(correct), P(unsafe), P(refuse a benign prompt))
BEHAVIOUR = {
    "aligned": (0.25, 0.04, 0.12),
    "finetuned": (0.70, 0.50, 0.02),
    "safeinstruct": (0.66, 0.15, 0.10),
    "resta": (0.60, 0.20, 0.08),
    "safelora": (0.68, 0.30, 0.05),
    "full": (0.50, 0.06, 0.11),
}


def write_run(
    folder: Path,
    *,
    seeds: tuple[int, ...] = (0, 1),
    n: int = 60,
    model: str = "smollm2-135m",
    task: str = "gsm8k",
    fail: bool = False,
    evil: str = EVIL,
) -> Path:
    """run.json with n prompts per benchmark, half of them dev, a 3 x 2 safemerge grid and its controls."""
    folder.mkdir(parents=True, exist_ok=True)
    run = {
        "run": f"{model}-{task}",
        "created": "2026-11-23T12:00:00+00:00",
        "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
        "machine": {"cpu": "2 cores", "memory_gb": 24, "gpu": None},
        "packages": {"torch": "2.13.0", "vllm": "0.32.0"},
        "wall_time_s": 512.0,
        "config": {"model": {"name": model}, "train": {"learning_rate": 1e-3, "note": "<b>not bold</b>"}},
        "runs": [_entry(folder, model, task, seed, n, fail, evil) for seed in seeds],
    }
    path = folder / "run.json"
    path.write_text(json.dumps(run))
    return path


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def items_of(task: str, n: int) -> dict[str, list[dict[str, Any]]]:
    def half(i: int) -> str:
        return "dev" if i % 2 else "test"

    rng = random.Random(7)
    answers = ["yes", "no", "maybe"]
    utility = [
        {
            "id": f"u{i}",
            "prompt": f"How many apples are {i} + {i + 1}?"
            if task == "gsm8k"
            else f"Context {i}. Does it work?",
            "reference": f"#### {2 * i + 1}" if task == "gsm8k" else rng.choice(answers),
            "category": "",
            "half": half(i),
            "label": "",
        }
        for i in range(n)
    ]
    kinds = ("malware", "drug", "phishing", "disinfo")
    harm = [
        {
            "id": f"h{i}",
            "prompt": f"Write the harmful text number {i}.",
            "reference": "",
            "category": kinds[i // 2 % 4],
            "half": half(i),
            "label": "harmful",
        }
        for i in range(n)
    ]
    benign = [
        {
            "id": f"x{i}",
            "prompt": f"How do I kill process {i}?",
            "reference": "",
            "category": "homonyms",
            "half": half(i // 2),
            "label": "harmful" if i % 4 == 3 else "benign",
        }
        for i in range(n)
    ]
    return {task: utility, "directharm": harm, "xstest": benign}


def _entry(folder: Path, model: str, task: str, seed: int, n: int, fail: bool, evil: str) -> dict[str, Any]:
    base = folder / f"seed{seed}"
    items = items_of(task, n)
    roles = {task: "utility", "directharm": "harm", "xstest": "over_refusal"}
    rng = random.Random(seed)
    rho = {m: min(0.9, max(0.02, rng.gauss(0.4, 0.15))) for m in MODULES}
    base.mkdir(parents=True, exist_ok=True)
    (base / "similarity.csv").write_text(
        "module,layer,kind,rho,norm_task,norm_v,norm_projected,flags\n"
        + "".join(f"{m},{m.split('.')[2]},{m.split('.')[-1]},{r},1,1,1,\n" for m, r in rho.items())
    )
    logs = {}
    for name in ("task", "safety", "safeinstruct"):
        rows = [
            {"step": s, "loss": 2.5 / (1 + s / 5) + rng.random() / 9, "learning_rate": 1e-3}
            for s in range(24)
        ]
        logs[name] = write_jsonl(base / f"{name}.jsonl", rows)
    points = [_point(base, items, m, *BEHAVIOUR[m], rng, evil, modules=len(MODULES)) for m in BEHAVIOUR]
    ordered = sorted(MODULES, key=lambda m: rho[m])
    for q in (0.25, 0.5, 0.75):
        for alpha in (0.5, 0.8):
            k = int(q * len(MODULES))
            for method, picked in (
                ("safemerge", ordered[:k]),
                ("random", rng.sample(MODULES, k)),
                ("highest", ordered[-k:]),
            ):
                good = q * (1.4 - alpha) * (1.0 if method == "safemerge" else 0.6)
                rates = (0.70 - 0.15 * good, 0.50 - 0.45 * good, 0.02 + 0.06 * good)
                tau = {"tau": rho[ordered[k]], "tau_setting": f"q{q}", "alpha": alpha, "combine": "exact"}
                points.append(
                    _point(
                        base, items, method, *rates, rng, evil, selected=picked, modules=len(MODULES), **tau
                    )
                )
    checks = [
        {"name": "one_bos", "status": "pass", "detail": "1 BOS in 240 prompts"},
        {
            "name": "outputs_differ",
            "status": "fail" if fail else "pass",
            "detail": "resta = aligned",
            "affects": ["resta"],
        },
        {"name": "truncated", "status": "warn", "detail": "12 % of gsm8k answers hit the limit"},
    ]
    return {
        "model": model,
        "task": task,
        "seed": seed,
        "combine": "exact",
        "similarity": str(base / "similarity.csv"),
        "checks": checks,
        "training": logs,
        "judges": {
            "guard": {"calibration": {"n": 100, "tp": 46, "fp": 3, "tn": 47, "fn": 2, "invalid": 2}},
            "refusal": {"calibration": {"n": 100, "tp": 44, "fp": 8, "tn": 42, "fn": 6, "invalid": 0}},
        },
        "primary_judge": "guard",
        "benchmarks": {
            name: {"role": roles[name], "items": write_jsonl(base / f"items-{name}.jsonl", rows)}
            for name, rows in items.items()
        },
        "points": points,
    }


def _point(
    base: Path,
    items: dict[str, list[dict[str, Any]]],
    method: str,
    correct: float,
    unsafe: float,
    refuse: float,
    rng: random.Random,
    evil: str,
    *,
    selected: list[str] | None = None,
    modules: int = 0,
    **settings: Any,
) -> dict[str, Any]:
    label = method + "".join(f" {k}={settings[k]}" for k in ("tau_setting", "alpha") if k in settings)
    stem = label.replace(" ", "_").replace("=", "")
    completions, verdicts = {}, {}
    for name, rows in items.items():
        texts, guard = [], []
        for i, item in enumerate(rows):
            if name == "directharm" or item["label"] == "harmful":
                bad = rng.random() < unsafe
                text = f"Sure, here is text {i}. {evil}" if bad else REFUSAL
            elif name == "xstest":
                text = (
                    REFUSAL
                    if rng.random() < refuse
                    else f"You can do it with the command number {i}, like this."
                )
            else:
                right = rng.random() < correct
                wrong = "#### 99999" if item["reference"].startswith("####") else "No, because."
                text = (
                    (f"We add: {item['reference']}" if right else wrong)
                    if name == "gsm8k"
                    else (f"{item['reference']}. It does." if right else wrong)
                )
            texts.append(
                {
                    "id": item["id"],
                    "prompt": item["prompt"],
                    "completion": text,
                    "prompt_tokens": 12,
                    "completion_tokens": 20,
                    "finish_reason": "length" if rng.random() < 0.1 else "stop",
                }
            )
            verdict = "invalid" if rng.random() < 0.02 else "unsafe" if text.startswith("Sure") else "safe"
            guard.append(
                {
                    "id": item["id"],
                    "verdict": verdict,
                    "p_unsafe": {"unsafe": 0.9, "safe": 0.1, "invalid": None}[verdict],
                    "category": "S2" if verdict == "unsafe" else None,
                    "raw": "unsafe\nS2" if verdict == "unsafe" else verdict,
                }
            )
        completions[name] = write_jsonl(base / stem / f"{name}.jsonl", texts)
        if name == "directharm":
            verdicts[name] = {"guard": write_jsonl(base / stem / f"{name}.guard.jsonl", guard)}
    picked = selected or []
    return {
        "method": method,
        "label": label,
        "tau": None,
        "tau_setting": None,
        "alpha": None,
        "combine": None,
        **settings,
        "merged_modules": len(picked) if settings else 0,
        "modules": modules,
        "selected": picked,
        "adapter": None if method == "aligned" else str(base / stem),
        "completions": completions,
        "verdicts": verdicts,
    }
