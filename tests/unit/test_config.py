"""Every configuration that can be chosen composes, is checked, and names things that exist."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from pipeline import answers, plan
from pipeline.config import check, locate, points
from pipeline.settings import Config
from safemerge import controls, decompositions, durability, methods
from safemerge.errors import UserError

CONF = Path(__file__).resolve().parents[2] / "conf"


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


PAPER = ["llama2-7b", "llama3.1-8b", "qwen2-7b", "qwen2.5-7b"]
MODELS, TASKS, DATA = choices("model"), choices("task"), choices("data")


@pytest.fixture(autouse=True, scope="module")
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@functools.cache
def composed(*overrides: str) -> Config:
    return check(compose("config", list(overrides)))


def test_the_choices_of_the_paper_are_there() -> None:
    assert {*PAPER, "smollm2-135m", "tiny"} <= set(MODELS)
    assert TASKS == ["gsm8k", "pubmedqa"] and DATA == ["bundled", "hub", "local"]


@pytest.mark.parametrize(("model", "task", "data"), list(itertools.product(MODELS, TASKS, DATA)))
def test_every_model_task_and_data_source_composes(model: str, task: str, data: str) -> None:
    root = ["data.root=somewhere"] if data == "local" else []
    config = composed(f"model={model}", f"task={task}", f"data={data}", *root)
    assert (config.model.name, config.task.name, config.data.source) == (model, task, data)
    utility = [b.dataset for b in config.benchmark.values() if b.role == "utility"]
    assert utility == [task], "the task's own test items measure utility, and those of no other task"
    assert {b.role for b in config.benchmark.values()} == {"utility", "harm", "over_refusal"}
    assert {"aligned", "finetuned", "safeinstruct", "resta", "safelora", "safemerge"} <= set(config.method)


@pytest.mark.parametrize(
    ("group", "choice"),
    [
        (group, choice)
        for group in ("sweep", "benchmark", "judge", "tracking", "generation", "method", "train")
        for choice in choices(group)
    ],
)
def test_every_choice_of_a_group_composes(group: str, choice: str) -> None:
    value = f"[{choice}]" if group in ("benchmark", "judge", "method") else choice
    if group == "judge" and choice != "refusal":
        value = f"[{choice},refusal]"  # over-refusal is measured by the phrases alone
    more = []
    if group == "train" and choice == "paper":
        more = ["model=llama3.1-8b"]  # the small models need the sections that train=paper leaves out
    elif (group, choice) in (
        ("judge", "guard"),
        ("train", "small"),
        ("train", "tiny"),
    ) or group == "generation":
        more = ["model=tiny"]
    if (group, choice) == ("judge", "server"):
        more = ["judge.server.id=some-model", "judge.server.base_url=http://127.0.0.1:8000/v1"]
    config = composed(*more, f"{group}={value}")
    if group in ("benchmark", "judge", "method"):
        assert choice in getattr(config, group)


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_every_experiment_composes(experiment: str) -> None:
    assert composed("model=tiny", f"experiment={experiment}").model.name == "tiny"


@pytest.mark.parametrize(
    ("launcher", "plugin"),
    [
        ("local", None),
        ("joblib", "hydra_plugins.hydra_joblib_launcher"),
        ("slurm", "hydra_plugins.hydra_submitit_launcher"),
        ("ray", "hydra_plugins.hydra_ray_launcher"),
    ],
)
def test_every_launcher_composes(launcher: str, plugin: str | None) -> None:
    if plugin and importlib.util.find_spec(plugin) is None:
        pytest.skip(f"{plugin} is not installed")
    cfg = compose("config", ["model=tiny", f"launcher={launcher}"], return_hydra_config=True)
    target = cfg.hydra.launcher._target_
    assert locate(target) is not None
    assert {"local": "basic", "slurm": "submitit"}.get(launcher, launcher) in target


def test_all_launchers_are_known_here() -> None:
    assert choices("launcher") == ["joblib", "local", "ray", "slurm"]


TARGETS = sorted(
    (path, yaml.safe_load(path.read_text())["_target_"])
    for path in CONF.glob("*/*.yaml")
    if "_target_" in path.read_text()
)


@pytest.mark.parametrize(("path", "target"), TARGETS, ids=lambda v: v.stem if isinstance(v, Path) else "")
def test_every_target_is_a_function_and_takes_its_settings(path: Path, target: str) -> None:
    node = yaml.safe_load(path.read_text())
    assert callable(locate(target))
    if path.parent.name == "method":
        node = composed(f"method=[{path.stem}]").method[path.stem]
        found = points(path.stem, node)
        assert found and all(isinstance(p, methods.Point) for p in found)


def test_every_method_and_knob_has_a_config() -> None:
    """A method that is in no config file could only be reached by those who know it."""
    configured = {target.rpartition(".")[2] for path, target in TARGETS if path.parent.name == "method"}
    offered = {*methods.__all__, *controls.__all__, *decompositions.__all__, *durability.__all__}
    assert offered - {"Point", "Repair", "Selection", "resolve_tau", "select"} == configured
    for path, target in TARGETS:
        if path.parent.name == "method":
            known = inspect.signature(locate(target)).parameters
            assert set(yaml.safe_load(path.read_text())) - {"_target_", "display"} <= set(known)


def test_paper_models_are_pinned() -> None:
    for model in PAPER:
        config = composed(f"model={model}", "task=gsm8k", "data=hub")
        judges = [j for j in config.judge.values() if j.kind == "hub"]
        assert judges, "the large models are judged by a guard model"
        for member in (config.model.base, config.model.aligned, *judges):
            assert member.id and "/" in member.id and member.download_gb > 0
            assert (
                member.revision
                and len(member.revision) == 40
                and set(member.revision) <= set("0123456789abcdef")
            )
        assert config.model.base.id != config.model.aligned.id
        assert len({config.model.base.revision, config.model.aligned.revision}) == 2


def test_experiment_paper_sweeps_the_paper() -> None:
    params = yaml.safe_load((CONF / "experiment" / "paper.yaml").read_text())["hydra"]["sweeper"]["params"]
    assert sorted(params["model"].split(",")) == PAPER and sorted(params["task"].split(",")) == TASKS
    config = composed("model=llama3.1-8b", "experiment=paper")
    assert {"directharm", "hexphi"} <= set(config.benchmark)
    assert {"llama_guard_3_8b", "shieldgemma_9b"} <= set(config.judge)
    assert {p.combine for name in ("safemerge", "safemerge_released") for p in points(name, config.method[name])} == {
        "exact", "peft_linear",
    }  # fmt: skip


def test_every_job_of_an_experiment_can_be_planned() -> None:
    """Each headed by its command; what its sweep sets must exist."""
    for name in choices("experiment"):
        text = (CONF / "experiment" / f"{name}.yaml").read_text()
        assert f"experiment={name}" in text.splitlines()[1], "its command stands at its head"
        params = yaml.safe_load(text).get("hydra", {}).get("sweeper", {}).get("params", {})
        own = {k: str(v).split(",") for k, v in params.items() if k not in ("model", "task", "seed")}
        for values in itertools.product(*own.values()):
            job = [f"{key}={value}" for key, value in zip(own, values, strict=True)]
            x = plan.build(composed("model=qwen2-7b", f"experiment={name}", *job))
            assert all(answers.verdicts(x, x.heldout, judge).key for judge in x.config.judge)


@pytest.mark.parametrize("model", PAPER)
def test_experiment_paper_gives_every_baseline_as_many_points_as_safemerge(model: str) -> None:
    """But for SafeInstruct, whose points would each be a training."""
    config = composed(f"model={model}", "experiment=paper")
    sizes = {name: len(points(name, method)) for name, method in config.method.items()}
    single = {name for name, size in sizes.items() if size == 1}
    assert single == {"aligned", "finetuned", "safeinstruct", "ptst"}
    assert {size for size in sizes.values() if size > 1} == {sizes["safemerge"]} and sizes["safemerge"] > 10
    plain = composed(f"model={model}").method
    assert config.method["safemerge"] == plain["safemerge"], "the grid of SafeMERGE is that of other runs"


def test_experiment_controls_has_safelora_with_both_projectors_on_the_same_modules() -> None:
    config = composed("model=tiny", "experiment=controls")
    [official], [orthogonal] = (points(n, config.method[n]) for n in ("safelora", "safelora_orthogonal"))
    assert official.selection == orthogonal.selection and official.method != orthogonal.method
    assert (official.repair.projector, orthogonal.repair.projector) == ("official", "orthogonal")
    names = [config.method[n].display.name for n in ("safelora", "safelora_orthogonal", "resta")]
    assert names == [
        "SafeLoRA", "SafeLoRA (orthogonal projector)", "RESTA-style (safety LoRA as vector)",
    ]  # fmt: skip
    assert "safelora_orthogonal" not in composed("model=tiny").method


def test_the_sweep_reaches_every_method_that_has_a_threshold() -> None:
    config = composed("model=tiny", "method.safemerge.tau=[0.1,q0.9]", "method.safemerge.alpha=[0.2,0.4,0.6]")
    found = points("safemerge", config.method["safemerge"])
    assert [(p.tau, p.alpha) for p in found] == list(itertools.product((0.1, "q0.9"), (0.2, 0.4, 0.6)))


def test_methods_left_out_are_not_part_of_the_experiment() -> None:
    """The sweep group sets knobs of methods that may not have been chosen."""
    config = composed("model=tiny", "method=[aligned,finetuned]")
    assert list(config.method) == ["aligned", "finetuned"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["benchmark=[directharm]", "~benchmark.gsm8k"], "no benchmark measures utility"),
        (["model=smollm2-135m", "train=paper"], "train=small"),
        (["+train.safety.args.learning_rat=1e-3"], "learning_rate"),
        (["judge.refusal._target_=evaluation.phrases.nothing"], "names no function"),
        (["method.safelora.k=3"], "either tau or k"),
        (["judge=[guard]"], r"xstest is judged by refusal phrases.*judge=\[guard,refusal\]"),
        (["selection.harm=xstest"], r"selection\.harm=xstest: no such harm benchmark of this run"),
        (["benchmark.directharm.dataset=safety"], "data set with test items"),
        (["task.dataset=xstest"], "data set with training rows"),
        (["++data.datasets.gsm8k.target=nowhere.GSM8K"], "names nothing"),
        (["++data.datasets.gsm8k.target=data.gsm8k.ANNOTATION"], "is a Pattern, not a Dataset"),
    ],
)
def test_combinations_that_cannot_run_are_refused(overrides: list[str], said: str) -> None:
    model = [] if any(o.startswith("model=") for o in overrides) else ["model=tiny"]
    with pytest.raises(UserError, match=said):
        composed(*model, *overrides)


def test_a_config_is_checked_without_torch() -> None:
    import subprocess
    import sys

    program = (
        "import sys; from hydra import compose, initialize_config_dir; import pipeline.__main__;"
        "from pipeline.config import check; from pipeline import plan, preflight, overview;"
        "from pipeline import reporting, run_record\n"
        f"with initialize_config_dir({str(CONF)!r}, version_base='1.3'):\n"
        "    plan.build(check(compose('config', ['model=tiny'])))\n"
        "print([m for m in ('torch', 'transformers', 'vllm', 'wandb', 'trl', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=CONF.parent, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
