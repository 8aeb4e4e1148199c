"""What every part of the settings is made of: the strict model, and the values that several parts share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(gt=0)]
#: Becomes a part of a folder's name, so it names no other folder.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.+-]*$", max_length=100)]
Address = Annotated[str, Field(pattern=r"^https?://")]  # of a server; ends in /v1 for most


class Section(BaseModel):
    """A part of the settings: no key that it does not know, no value of another type, no infinity."""

    # strict: true is not 1, and 8.0 no whole number.
    model_config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False, strict=True)
