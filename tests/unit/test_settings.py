"""Nothing is accepted in silence: a setting that would change nothing is refused in one line that names it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from pipeline.config import check
from pipeline.mistakes import one_line
from pipeline.settings import Config
from safemerge.errors import UserError

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.fixture(autouse=True, scope="module")
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def composed(*overrides: str) -> Config:
    return check(compose("config", ["model=tiny", *overrides]))


#: Overrides that Hydra lets pass (a plus sign, an open dict), and what the refusal must name.
SILENT: dict[str, tuple[str, ...]] = {
    "++method.safemergee.tau=0.5": ("method.safemergee: no such method; did you mean safemerge?",),
    "++method.resta.gama=0.5": ("method.resta.gama: no such setting", "gamma"),
    "++method.random_k.alhpa=0.5": ("method.random_k.alhpa: no such setting", "alpha"),
    "+method.safemerge.gamma=0.5": ("method.safemerge.gamma: no such setting", "combine"),
    "+generation.max_tokens.gms8k=5": ("generation.max_tokens.gms8k: no such benchmark; did you mean gsm8k?",),
    "+generation.max_tokens.math=5": ("generation.max_tokens.math: no such benchmark", "xstest"),
    "+generation.max_tokns=5": ("generation.max_tokns: no such setting; did you mean max_tokens?",),
    "~generation.max_tokens.default": ("generation.max_tokens.default is missing",),
    "generation.max_tokens.default=0": ("generation.max_tokens.default=0", "greater than 0"),
    "generation.top_p=0.5": ("generation.top_p=0.5 changes nothing at temperature 0",),
    "+data.limits.items.directham=5": ("data.limits.items.directham: no such data set; did you mean directharm?",),
    "data.limits.items.gsm8k=0": ("data.limits.items.gsm8k=0", "greater than 0"),
    "data.limits.items.gsm8k=-3": ("data.limits.items.gsm8k=-3", "greater than 0"),
    "+data.limits.prompts=5": ("data.limits.prompts: no such setting", "items"),
    "+data.datasets.gsm8k.revison=abc": ("data.datasets.gsm8k.revison: no such setting; did you mean revision?",),
    "+data.datasets.gsmk8.revision=abc": ("data.datasets.gsmk8: no such data set; did you mean gsm8k?",),
    "+data.datasets.xstest.revision=abc": ("data.datasets.xstest.revision is not read with data=bundled",),
    "data.root=somewhere": ("data.root=somewhere: the data of data=bundled is not read from there",),
    "+train.task.safety_limit=5": ("train.task.safety_limit: no such setting", "limit"),
    "+train.safety.helpful_limit=5": ("train.safety.helpful_limit: no such setting",),
    "+train.safeinstruct.helpful_limit=5": ("train.safeinstruct.helpful_limit: no such setting", "safety_limit"),
    "+train.args.learning_rat=1": ("train.args.learning_rat: no such argument of TRL's SFTConfig", "learning_rate"),
    "+train.task.args.learning_rat=1": ("train.task.args.learning_rat: not among train.args",),
    "+train.lora.rank=8": ("train.lora.rank: no such setting", "lora_alpha"),
    "train.lora.target_modules=[]": ("train.lora.target_modules", "at least 1 item"),
    "+judge.refusal.price=[1,2]": ("judge.refusal.price: no such setting",),
    "+judge.refusal.threshold=0.3": ("judge.refusal.threshold: no such setting",),
    "+judge.refusall.threshold=0.3": ("judge.refusall: no such thing; did you mean refusal?",),
    "+judge.refusal.depth=0.5": ("judge.refusal.depth: no such setting",),
    "+model.base.path=here": ("model.base.path: no such setting; valid here: kind, hidden_size",),
    "+model.aligned.id=org/name": ("model.aligned.id: no such setting",),
    "model.base.kind=hubb": ("model.base.kind=hubb: no such kind", "gguf"),
    "+benchmark.xstest.limit=5": ("benchmark.xstest.limit: no such setting", "dataset"),
    "benchmark.xstest.dataset=xtest": (
        "benchmark.xstest.dataset=xtest: no such data set with test items; did you mean xstest?",
    ),
    "judge.refusal._target_=evaluation.statistics.wilson": ("cannot be called as this kind of thing is", "missing"),
    "judge.refusal._target_=evaluation.nowhere.judge": ("names no function",),
    "benchmark.xstest._target_=evaluation.statistics.wilson": ("benchmark.xstest._target_=evaluation.statistics.wilson",),
    "method.safemerge.combine=peft_linear": (
        "method.safemerge_released and method.safemerge would be one row of the tables",
        "SafeMERGE with combine=peft_linear",
    ),
    "method.full.display.name=SafeMERGE": ("method.full", "one row of the tables, SafeMERGE with combine=peft_linear"),
    "+selection.keep=0.9": ("selection.keep: no such setting; did you mean keep_gain?",),
    "+tracking.tags=[a]": ("tracking.tags: no such setting", "project"),
    "tracking.project=''": ("tracking.project", "at least 1 character"),
    "store=''": ("store=''", "at least 1 character"),
    "stages=[]": ("stages=[]", "at least 1 item"),
    "+sed=3": ("sed: no such setting; did you mean seed?",),
    "+method.safemerge.seed=3": ("seed=3 changes nothing where combine=exact",),
    "+method.full.seed=3": ("seed=3 changes nothing where combine=peft_linear",),
    "method.resta.seed=3": ("seed=3 changes nothing where dare_density is not set",),
    "method.safemerge.tau=[q0.5,q0.50]": ("[q0.5, q0.50] has q0.5 twice",),
    "method.safemerge.alpha=[0.8,0.8]": ("[0.8, 0.8] has 0.8 twice",),
    "+method.safelora.energy=0.5": ("projector=official has no use for energy=0.5",),
    "method.safemerge.display.colour=red": ("method.safemerge.display.colour='red'", "pattern"),
    "method.safemerge.display.marker=zz": ("method.safemerge.display.marker='zz'", "pattern"),
    "method.resta.display.hatch=abc": ("method.resta.display.hatch='abc'", "pattern"),
    "benchmark.xstest.name=''": ("benchmark.xstest.name=''", "at least 1 character"),
    "generation.seed=5": ("generation.seed=5 changes nothing at temperature 0",),
    "train.parallel=fsdp": ("train.parallel=fsdp changes nothing with train.devices=1",),
    "+train.args.eval_steps=5": ("train.args.eval_steps=5 changes nothing",),
    "+train.args.run_name=x": ("train.args.run_name=x changes nothing",),
    "+train.args.dataset_text_field=x": ("train.args.dataset_text_field=x changes nothing",),
    "stages=[prepare,prepare]": ("stages=prepare,prepare has a stage twice",),
}  # fmt: skip
ELSEWHERE: dict[tuple[str, ...], tuple[str, ...]] = {
    ("model=llama3.1-8b", "+model.base.vocab_size=500"): ("model.base.vocab_size: no such setting", "revision"),
    ("model=llama3.1-8b", "+judge.llama_guard_3_8b.depth=0.5"): ("judge.llama_guard_3_8b.depth: no such setting",),
    ("model=smollm2-135m", "+model.base.revision=abc"): ("model.base.revision: no such setting", "package"),
    ("model=llama3.1-8b", "judge.llama_guard_3_8b._target_=evaluation.judges.calibrated_threshold"): ("missing",),
    ("model=llama3.1-8b", "judge.llama_guard_3_8b._target_=evaluation.statistics.Rate"): ("llama_guard_3_8b",),
    ("model=smollm2-135m", "+judge.probe.max_tokens=5"): ("judge.probe.max_tokens: no such setting", "depth"),
    ("model=llama3.1-8b", "data=hub", "+data.datasets.gsm8k.test_ids=x"): (
        "data.datasets.gsm8k.test_ids is not read with data=hub", "revision",
    ),
    ("model=llama3.1-8b", "data=hub", "+data.datasets.safety.revision=abc"): (
        "data.datasets.safety.revision is not read with data=hub", "file",
    ),
    ("model=llama3.1-8b", "data=hub", "data.root=here"): ("data.root=here: the data of data=hub is not read from there",),
    ("method=[aligned,finetuned,by_kind]", "method.by_kind.kinds=[q_prj]"): (
        "method.by_kind.kinds=q_prj: no such kind of adapted modules; did you mean q_proj?",
    ),
    ("method=[aligned,finetuned,random_k]", "++method.safemerge.tau=q0.5", "method.random_k.seed=[0,0]"): ("has 0 twice",),
}  # fmt: skip


@pytest.mark.parametrize("override", SILENT)
def test_a_setting_that_would_change_nothing_is_refused(override: str) -> None:
    with pytest.raises((UserError, HydraException, OmegaConfBaseException)) as caught:
        composed(override)
    line = one_line(caught.value)
    assert "\n" not in line and all(words in line for words in SILENT[override]), line


@pytest.mark.parametrize("overrides", ELSEWHERE)
def test_also_on_other_models(overrides: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        composed(*overrides)
    line = one_line(caught.value)
    assert all(words in line for words in ELSEWHERE[overrides]), line


def test_what_does_change_something_is_taken() -> None:
    """The same settings, where they have a use."""
    composed(
        "+method.safemerge.seed=3", "method.safemerge.combine=dare_linear", "+method.safemerge.density=0.5"
    )
    composed("method.resta.seed=3", "method.resta.dare_density=0.5")
    composed("generation.seed=5", "generation.temperature=0.7")
    composed("train.parallel=fsdp", "train.devices=2")
    composed(
        "tracking=off", "tracking.project=x"
    )  # a switch: what it switches off may stay on the command line
    composed("task_adapter=here", "method=[aligned,finetuned,by_kind]", "method.by_kind.kinds=[any_proj]")


def test_a_dict_of_limits_is_taken() -> None:
    assert composed("data.limits.items={gsm8k:20}").data.limits.items["gsm8k"] == 20
    assert composed("data.limits.items.malicious=3").data.limits.items["malicious"] == 3
    with pytest.raises((UserError, HydraException, OmegaConfBaseException)) as caught:
        composed("data.limits.items={gsm8kk:20}")
    assert "data.limits.items.gsm8kk: no such setting; did you mean gsm8k?" in one_line(caught.value)


@pytest.mark.parametrize(
    "override",
    ["generation.max_tokens.xstest=20", "generation.max_tokens={xstest:20}", "train.args.weight_decay=0.1"],
)
def test_what_may_be_added_needs_a_plus(override: str) -> None:
    with pytest.raises(HydraException) as caught:
        composed(override)
    key, _, value = override.replace("={", ".").replace(":", "=").strip("}").partition("=")
    assert f"add it with a plus: +{key}=VALUE" in one_line(caught.value)
    composed(f"+{key}={value}")


def test_a_sweep_may_set_a_method_that_was_not_selected() -> None:
    assert "full" not in composed("method=[aligned,finetuned]", "++method.full.alpha=0.5").method
