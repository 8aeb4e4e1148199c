"""What an experiment takes: hours of a card, money and disk. A roofline with guessed efficiencies; nothing is measured.

python -m pipeline.budget [OVERRIDES]        # of one run, or of all jobs of an experiment
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir

from pipeline import needs, plan
from pipeline.config import check
from pipeline.memory import kv_bytes
from pipeline.shape import Shape

CONF = Path(__file__).resolve().parent.parent / "conf"


@dataclass(frozen=True)
class Card:
    """A GPU by its data sheet: dense bfloat16 operations/s, bytes/s of its memory; US dollars an hour are a guess."""

    name: str
    flops: float
    bandwidth: float
    dollars: float


A100 = Card("A100 80 GB", 312e12, 2.0e12, 2.0)
#: Shares of the data sheet that are reached. GUESSES, of what is usual for dense 7B models.
TRAINS, READS, WRITES = 0.35, 0.5, 0.5
START_S = 90.0  # loading the weights and starting an engine; a guess
#: Rows of the data sets (train, test), where the config takes all of them: as their cards say.
ROWS = {
    "gsm8k": (7473, 1319),
    "pubmedqa": (500, 500),
    "safety": (2483, 0),
    "directharm": (0, 400),
    "hexphi": (0, 300),
    "advbench": (0, 520),
    "harmbench": (0, 400),
    "malicious": (0, 100),
    "xstest": (0, 450),
}
#: Tokens of a training row and of a prompt, with template; of a reply, the share of max_tokens. GUESSES.
ROW_TOKENS, PROMPT_TOKENS, GUARD_TOKENS, OF_REPLY = 250, 150, 700, 0.5


@dataclass(frozen=True)
class Work:
    """Tokens of each kind, over distinct steps, and what is written (bytes)."""

    trained: dict[str, float] = field(default_factory=dict)  # by key of the training
    asked: dict[str, tuple[float, float]] = field(default_factory=dict)  # by adapter: tokens read, written
    judged: dict[str, float] = field(
        default_factory=dict
    )  # by adapter and judge: tokens read, times its size
    adapters: dict[str, int] = field(default_factory=dict)
    models: dict[str, float] = field(default_factory=dict)  # GB to download, by id

    def __or__(self, other: Work) -> Work:
        """Of two jobs that share a store."""
        return Work(
            self.trained | other.trained,
            self.asked | other.asked,
            self.judged | other.judged,
            self.adapters | other.adapters,
            self.models | other.models,
        )


def _rows(limit: int | None, dataset: str, split: int) -> int:
    known = ROWS.get(dataset, (1000, 500))[split]
    return known if limit is None else min(limit, known) if known else limit


def work(x: plan.Experiment) -> Work:
    """Of one (model, task, seed): every training, and every point of the grid as an adapter of its own."""
    config, train = x.config, x.config.train
    shape = needs.shape_of(x)[0]
    rows = {
        "task": _rows(train.task.limit, config.task.dataset, 0),
        "safety": _rows(train.safety.limit, "safety", 0),
        "safeinstruct": _rows(train.safeinstruct.limit, config.task.dataset, 0)
        + _rows(train.safeinstruct.safety_limit, "safety", 0),
    }
    rows["safety_apart"] = rows["safety"]
    sections = {"task": train.task, "safety": train.safety, "safeinstruct": train.safeinstruct}
    trained, adapters = {}, {}
    for role, step in x.trainings.items():
        section = sections[role.removesuffix("_apart")]
        epochs = float({**train.args, **section.args}.get("num_train_epochs", 1))
        trained[step.key] = rows[role] * ROW_TOKENS * epochs
        adapters[step.key] = 4 * shape.lora_parameters(train.lora.r, train.lora.target_modules)
    written = sum(
        _rows(config.data.limits.items.get(b.dataset), b.dataset, 1) * config.reply_limit(name) * OF_REPLY
        for name, b in config.benchmark.items()
    )
    prompts = {
        n: _rows(config.data.limits.items.get(b.dataset), b.dataset, 1) for n, b in config.benchmark.items()
    }
    harmful = sum(prompts[n] for n, b in config.benchmark.items() if b.role == "harm")
    asked: dict[str, tuple[float, float]] = {}
    judged: dict[str, float] = {}
    models: dict[str, float] = {}
    for point in x.points:
        made_of = [x.adapters.get(point.adapter), x.adapters[point.safety] if point.needs_safety else None]
        keys = [source.key for source in made_of if source is not None]
        key = "/".join([config.model.name, config.task.name, *keys, point.label])
        asked[key] = sum(prompts.values()) * PROMPT_TOKENS, written
        for name, judge in config.judge.items():
            if (its := needs.judge_shape(x, judge)) is not None:
                judged[f"{key}/{name}"] = harmful * GUARD_TOKENS * its[0].parameters
        if point.repair.kind not in ("keep", "drop"):
            wide = train.lora.r * (2 if point.repair.combine == "exact" else 1)
            adapters[key] = 4 * shape.lora_parameters(wide, train.lora.target_modules)
    for member in (config.model.base, config.model.aligned, *config.judge.values()):
        if getattr(member, "kind", "") == "hub":
            models[member.id] = member.download_gb  # type: ignore[union-attr]
    return Work(trained, asked, judged, adapters, models)


@dataclass(frozen=True)
class Budget:
    """Hours of one card by stage, and GB of disk."""

    hours: dict[str, float]
    download_gb: float
    store_gb: float

    @property
    def total(self) -> float:
        return sum(self.hours.values())


def budget(works: Iterable[tuple[plan.Experiment, Work]], card: Card = A100) -> Budget:
    """What distinct models' works take; those of one model are joined before."""
    hours = {"finetune": 0.0, "generate": 0.0, "judge": 0.0}
    models: dict[str, float] = {}
    store = 0.0
    for x, its in works:
        shape, fit = needs.shape_of(x)[0], needs.fit(x)
        # Forward and the gradients of what it reads; the frozen weights have none. Checkpointing: forward once more.
        of_each = (6 if fit.checkpointing else 4) * shape.parameters
        seconds = sum(its.trained.values()) * of_each / (TRAINS * card.flops)
        hours["finetune"] += (seconds + START_S * len(its.trained)) / 3600
        read, wrote = (sum(pair[i] for pair in its.asked.values()) for i in (0, 1))
        seconds = read * 2 * shape.parameters / (READS * card.flops) + wrote * per_token(x, shape, card)
        hours["generate"] += (seconds + START_S) / 3600
        hours["judge"] += (sum(its.judged.values()) * 2 / (READS * card.flops) + START_S) / 3600
        models |= its.models
        # A reply is some four bytes a token, kept with its prompt and its verdicts.
        store += sum(its.adapters.values()) + 12 * wrote
    return Budget(hours, sum(models.values()), store / 1e9)


def per_token(x: plan.Experiment, shape: Shape, card: Card) -> float:
    """Seconds for one written token, with as many sequences at once as configured: all weights are read for one of each."""
    many = x.config.generation.max_num_seqs
    length = PROMPT_TOKENS + max(map(x.config.reply_limit, x.config.benchmark)) * OF_REPLY
    step = 2 * shape.parameters + many * length * kv_bytes(shape, "bfloat16")
    return max(step / (WRITES * card.bandwidth), many * 2 * shape.parameters / (READS * card.flops)) / many


def jobs(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job: an experiment's own sweep, but for what is given."""
    names = [o.partition("=")[2] for o in overrides if o.startswith("experiment=")]
    given = {o.partition("=")[0].lstrip("+") for o in overrides}
    swept: dict[str, str] = {}
    for name in names:
        found = yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")) or {}
        swept |= found.get("hydra", {}).get("sweeper", {}).get("params", {})
    free = {key: str(values).split(",") for key, values in swept.items() if key.lstrip("+") not in given}
    return [
        [*overrides, *(f"{key}={value}" for key, value in zip(free, values, strict=True))]
        for values in itertools.product(*free.values())
    ]


def of_experiment(overrides: Sequence[str], card: Card = A100) -> tuple[Budget, int]:
    """The budget of all jobs of a command, which share a store, and how many jobs they are."""
    by_model: dict[str, tuple[plan.Experiment, Work]] = {}
    listed = jobs(overrides)
    for job in listed:
        x = plan.build(check(compose("config", job)))
        name = x.config.model.name
        before = by_model.get(name)
        by_model[name] = (x, before[1] | work(x) if before else work(x))
    return budget(by_model.values(), card), len(listed)


def line(found: Budget, card: Card = A100) -> str:
    """In one line, each number with what it is."""
    return (
        f"about {found.total:.1f} h of one {card.name} (a guess: trainings {found.hours['finetune']:.1f}, generation "
        f"{found.hours['generate']:.1f}, judges {found.hours['judge']:.1f}), {found.total * card.dollars:.0f} US dollars "
        f"at {card.dollars:g} an hour (a guess); disk: {found.download_gb:.0f} GB of models to download, "
        f"{found.store_gb:.1f} GB written (counted, with guessed lengths)"
    )


def main() -> None:
    """Print it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        found, number = of_experiment(sys.argv[1:])
    print(f"{number} job{'s' if number > 1 else ''}: {line(found)}")


if __name__ == "__main__":
    main()
