"""What is wrong with a setting, in one line: its full name, its value, and what is valid there."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from pipeline.settings import Config
from safemerge.errors import UserError

CONF = Path(__file__).resolve().parent.parent / "conf"


def choices(group: str) -> dict[str, Path]:
    """The configs of a group, by name."""
    return {path.stem: path for path in sorted((CONF / group).glob("*.yaml"))}


def _fields_beside(path: tuple[Any, ...], values: Any) -> list[str]:
    """Names valid beside the last element of `path`, for the error line; `values` tell which member of a union is meant."""
    current: Any = Config
    for part in path[:-1]:
        values = values.get(part) if isinstance(values, Mapping) else None
        fields = getattr(current, "model_fields", {})
        annotation = fields[part].annotation if part in fields else _value_type(current)
        current = _model_in(annotation, values)
        if current is None:
            return []
    if not inspect.isclass(current) or not issubclass(current, BaseModel):
        return []
    return [field.alias or name for name, field in current.model_fields.items()]


def _value_type(annotation: Any) -> Any:
    """V of dict[str, V]."""
    arguments: tuple[Any, ...] = getattr(annotation, "__args__", ())
    return arguments[1] if getattr(annotation, "__origin__", None) is dict else None


def _model_in(annotation: Any, values: Any) -> Any:
    """The model class (or dict type) that an annotation holds; of several the one whose `kind` the values name."""
    if getattr(annotation, "__origin__", None) is dict:
        return annotation
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation
    found = [_model_in(a, values) for a in getattr(annotation, "__args__", ())]
    models = [m for m in found if m is not None]
    kind = values.get("kind") if isinstance(values, Mapping) else None
    named = [m for m in models if kind and kind in _kinds(m)]
    return (named or models or [None])[0]


def _kinds(model: type[BaseModel]) -> tuple[Any, ...]:
    """The values that a model's `kind` may have."""
    field = model.model_fields.get("kind")
    return getattr(field.annotation, "__args__", ()) if field else ()


def explain(error: ValidationError, values: Mapping[str, Any]) -> str:
    """The first complaint in one line: the setting, its value, and what is valid there."""
    first = error.errors()[0]
    loc = _without_tags(first["loc"], values)
    where = ".".join(str(part) for part in loc)
    if first["type"] == "extra_forbidden":
        valid = _fields_beside(loc, values)
        return f"{where}: no such setting{hint(str(loc[-1]), valid)}"
    if first["type"] == "missing":
        return f"{where} is missing: give it a value"
    if first["type"].startswith("union_tag"):
        kinds = first.get("ctx", {}).get("expected_tags", "")
        got = first.get("ctx", {}).get("tag")
        return (
            f"{where}.kind={got}: no such kind; one of {kinds}"
            if got
            else f"{where}: no such thing{hint(str(loc[-1]), list(choices(str(loc[0]))))}"
        )
    # A key may stand there by mistake; one in an address is refused by its own check.
    secret = where.endswith("api_key_env") or "password" in first["msg"]
    shown = "..." if secret else repr(first["input"])
    said = first["msg"].removeprefix("Value error, ")
    return f"{where}={shown}: {said[:1].lower() + said[1:]}"


def _without_tags(loc: tuple[Any, ...], values: Any) -> tuple[Any, ...]:
    """pydantic names the member of a union in the path (base, gguf, vocab_size); users do not."""
    path: list[Any] = []
    for i, part in enumerate(loc):
        if isinstance(part, str) and i and not isinstance(values, Mapping):
            continue  # which of a setting's types pydantic had tried
        kind = values.get("kind") if isinstance(values, Mapping) else None
        if part == kind and i < len(loc) - 1 and part not in values:
            continue
        path.append(part)
        values = values.get(part) if isinstance(values, Mapping) else None
    return tuple(path)


def hint(name: str, valid: Collection[str]) -> str:
    """What to append to a line that refuses a name: the nearest valid one, and all of them."""
    near = difflib.get_close_matches(name, valid, n=1)
    parts = [f"did you mean {near[0]}?"] if near else []
    parts += [f"valid here: {', '.join(valid)}"] if valid else []
    return f"; {' '.join(parts)}" if parts else ""


def check_names(before: str, names: Iterable[str], valid: Collection[str], what: str) -> None:
    """UserError for the first name that is none of the valid ones; `before` stands before it, as `method.` or `harm=`."""
    for name in names:
        if name not in valid:
            raise UserError(f"{before}{name}: no such {what}{hint(name, valid)}")
