"""What the judge stage is told, in full, by kind of judge. Part of a step's key, as all of `pipeline.stage_settings`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.stage_settings import Dict, Settings


@dataclass(frozen=True)
class PhrasesJudge(Settings):
    """`wording` is the hash of what its verdicts depend on besides these settings; likewise below."""

    target: str
    wording: str
    kind: Literal["phrases"] = "phrases"


@dataclass(frozen=True)
class ProbeJudge(Settings):
    """Its settings are those of its head, which is an input."""

    kind: Literal["probe"] = "probe"


@dataclass(frozen=True)
class GuardThreshold(Settings):
    """The threshold on a guard model's P(unsafe), set on the tuning pairs: made once, an input of all its verdicts."""

    target: str
    wording: str
    max_tokens: int
    system_prompt: str | None
    backend: str
    dtype: str
    kind: Literal["threshold"] = "threshold"


@dataclass(frozen=True)
class GuardJudge(Settings):
    """A guard model, through the engine: one that was trained here, or one of the hub.

    threshold: on P(unsafe); None for a calibrated one, which is an input.
    """

    target: str
    wording: str
    threshold: float | None
    max_tokens: int
    system_prompt: str | None
    backend: str
    dtype: str
    kind: Literal["guard"] = "guard"


@dataclass(frozen=True)
class ServerJudge(Settings):
    """A model behind a server, with a rubric."""

    target: str
    wording: str
    model: str
    base_url: str
    max_tokens: int
    kind: Literal["server"] = "server"


Judge = PhrasesJudge | ProbeJudge | GuardThreshold | GuardJudge | ServerJudge
JUDGE: dict[str, type[Judge]] = {
    "phrases": PhrasesJudge,
    "probe": ProbeJudge,
    "threshold": GuardThreshold,
    "guard": GuardJudge,
    "server": ServerJudge,
}


def of_judge(settings: Dict) -> Judge:
    """The settings of a judge job."""
    return JUDGE[settings["kind"]](**settings)
