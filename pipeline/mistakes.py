"""Hydra's multi-line complaints as one line that names the valid choices."""

from __future__ import annotations

import difflib
import re
import shlex

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.explain import CONF, choices

#: Where names may be added that no config of ours sets; `pipeline.config` refuses those of nothing that exists.
OPEN = ("generation.max_tokens", "train.args", "train.task.args", "train.safety.args", "data.datasets")


def _groups() -> list[str]:
    return sorted(path.name for path in CONF.iterdir() if path.is_dir())


def _valid_beside(key: str) -> list[str]:
    """Keys that exist where the unknown `key` was looked for: at the top, or in a config of its group."""
    parent, _, _ = key.rpartition(".")
    if not parent:
        top = OmegaConf.load(CONF / "config.yaml")
        return sorted(k for k in {*map(str, top), *_groups()} if k not in ("defaults", "hydra"))
    group, *rest = parent.split(".")
    found: set[str] = set()
    common = OmegaConf.select(OmegaConf.load(CONF / "config.yaml"), parent)
    if OmegaConf.is_dict(common):
        found |= {str(k) for k in common}
    for path in (CONF / group).glob("*.yaml"):
        node = OmegaConf.load(path)
        if rest and path.stem != rest[0] and group in ("method", "benchmark", "judge"):
            continue
        steps = rest[1:] if group in ("method", "benchmark", "judge") else rest
        inner = (
            OmegaConf.select(node, ".".join([*([group] if group in node else []), *steps]))
            if steps or group in node
            else node
        )
        if OmegaConf.is_dict(inner):
            found |= {str(k) for k in inner if k not in ("_target_", "defaults")}
    return sorted(found)


def _quoting(override: str | None) -> str | None:
    """How a value is quoted that Hydra would read as more than a text (a path with `=`, braces, ...); None: it is none."""
    key, equals, value = (override or "").partition("=")
    quoted = f"{key}={QuotedString(text=value, quote=Quote.double).with_quotes()}"
    if not equals or value.startswith(("[", "{", "'", '"')):
        return None
    try:
        OverridesParser.create().parse_override(quoted)
    except HydraException:
        return None
    return f"{override}: Hydra reads some of these characters as its grammar; quote the value: {shlex.quote(quoted)}"


def one_line(error: Exception) -> str:
    """What was wrong, its value, and what is valid, in one line."""
    text = str(error)
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return " ".join(text.split())
    if isinstance(error, OverrideParseException):
        return _quoting(error.override) or (
            f"{error.override}: not an override in Hydra's grammar ({' '.join(text.split())})"
        )
    plugin = re.search(r"Could not (?:find|load) 'hydra/launcher/(\w+)'", text)
    if plugin:
        extra = "ray" if plugin[1].startswith("ray") else "launchers"
        return (
            f"hydra/launcher={plugin[1]}: its plugin is not installed; run .venv/bin/pip install '.[{extra}]'"
        )
    missing = re.search(r"Could not (?:find|load) '([\w-]+)/([^']+)'", text)
    if missing:
        group, choice = missing.groups()
        return f"{group}={choice}: no such choice; {group} is one of {', '.join(choices(group))}"
    unknown = re.search(r"Could not override '([^']+)'", text) or re.search(r"full_key: (\S+)", text)
    if unknown:
        # The key itself may be fine and one inside its value unknown: the cause names the latter.
        key = str(getattr(error.__cause__, "full_key", None) or unknown.group(1).split("@")[0])
        parent = key.rpartition(".")[0]
        if parent in OPEN or parent.startswith("data.datasets"):
            return f"{key}: nothing of that name is set yet; if it is meant, add it with a plus: +{key}=VALUE"
        valid = _valid_beside(key)
        near = difflib.get_close_matches(key.rpartition(".")[2], valid, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"{key}: no such setting; {hint}valid here: {', '.join(valid) or 'see conf/'}"
    return " ".join(text.split())
