"""Say in uv's environment variables what pip is configured with: `pip config list | python pip_to_uv.py`.

uv reads neither pip's files nor its variables. Prints `export NAME=VALUE` lines for a shell to evaluate; a variable of uv's
that is already set is left alone. Exits with 3 where pip is told something that uv has no word for, so that pip is used.
"""

from __future__ import annotations

import ast
import os
import shlex
import sys
from collections.abc import Mapping

#: pip's setting -> uv's variable, and what joins several values there.
SETTINGS = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "timeout": ("UV_HTTP_TIMEOUT", " "),
    "default-timeout": ("UV_HTTP_TIMEOUT", " "),
    "cert": ("SSL_CERT_FILE", " "),
}
UNKNOWN = ("no-index", "proxy", "client-cert")


def settings(listing: str) -> dict[str, str]:
    """pip's settings that count for `pip install`: its environment over [install] over [global]."""
    found: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listing.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.strip().rpartition(".")
        if section in found:
            found[section][key] = str(ast.literal_eval(value))
    return {**found["global"], **found["install"], **found[":env:"]}


def translate(pip: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str] | None:
    """What to add to the environment; None where uv could not do what pip is told."""
    if any(pip.get(key, "").lower() not in ("", "0", "false", "no", "off") for key in UNKNOWN):
        return None
    added = {}
    for key, (name, glue) in SETTINGS.items():
        if pip.get(key) and not environment.get(name):
            added[name] = glue.join(pip[key].split())
    if "UV_INDEX" in added and not environment.get("UV_INDEX_STRATEGY"):
        added["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # as pip, which takes all its indexes for one
    return added


if __name__ == "__main__":
    result = translate(settings(sys.stdin.read()), os.environ)
    if result is None:
        sys.exit(3)
    for name, value in result.items():
        print(f"export {name}={shlex.quote(value)}")
