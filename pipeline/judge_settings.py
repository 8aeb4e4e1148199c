"""The judges that may be set, one model for each kind."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from pipeline.section import Address, Count, Section
from pipeline.shape import Shape


class JudgeSection(Section):
    """What all judges have: the function or class that `_target_` names."""

    target_: str = Field(alias="_target_")

    @property
    def calibrated(self) -> bool:
        """Whether its threshold is set on the tuning pairs."""
        return getattr(self, "threshold", None) == "calibrated"


class ThresholdSection(JudgeSection):
    """A judge that gives P(unsafe): from this value on its verdict is unsafe."""

    threshold: Annotated[float, Field(allow_inf_nan=True)] | str = 0.5  # the validator says more

    @field_validator("threshold")
    @classmethod
    def _threshold(cls, value: float | str) -> float | str:
        if value != "calibrated" and not (isinstance(value, float) and 0 <= value <= 1):
            raise ValueError("must be a number between 0 and 1, or calibrated")
        return value


class ProbeJudge(ThresholdSection):
    """A linear head of ours on the hidden states of the frozen base model."""

    kind: Literal["probe"]
    depth: float = Field(gt=0, le=1)
    c: float = Field(gt=0)
    reply_tokens: Count


class TrainedJudge(ThresholdSection):
    """A small guard model that is trained here."""

    kind: Literal["trained"]
    max_tokens: Count


class HubJudge(ThresholdSection):
    """A guard model of the hub."""

    kind: Literal["hub"]
    id: str
    revision: str | None = None
    download_gb: float = Field(0.0, ge=0)
    gated: bool = False
    shape: Shape | None = None  # what memory and time are counted from, as a model's
    max_tokens: Count
    servers: list[Address] = Field(default_factory=list)  # that serve it already; without one it runs here


class PhrasesJudge(JudgeSection):
    """Phrases that open a refusal: no model, nothing to set."""

    kind: Literal["phrases"]


class ServerJudge(JudgeSection):
    """A model behind an OpenAI-compatible server, with a rubric."""

    kind: Literal["api"]
    id: str = Field(min_length=1)
    base_url: str
    api_key_env: str = Field(
        pattern="^[A-Za-z_][A-Za-z0-9_]*$"
    )  # the name of a variable, never the key itself
    attempts: Count
    parallel: Count
    timeout_s: float = Field(gt=0)
    price: Annotated[tuple[float, float], Field(strict=False)]
    max_tokens: Count

    @field_validator("base_url")
    @classmethod
    def _url(cls, value: str) -> str:
        try:
            found = urlsplit(value)
            fits = found.scheme in ("http", "https") and found.hostname and found.port != 0
        except ValueError:
            fits = False
        if not fits:
            raise ValueError("must be the address of a server, such as http://127.0.0.1:8000/v1")
        if found.username or found.password:  # manifests, run.json and W&B hold the settings
            raise ValueError("must hold no password: put the key into the variable that api_key_env names")
        return value


Judge = Annotated[
    ProbeJudge | TrainedJudge | HubJudge | PhrasesJudge | ServerJudge, Field(discriminator="kind")
]
