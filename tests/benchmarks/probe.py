"""Prints the peak resident memory, in bytes, of one similarity table above that of the imported libraries."""

from __future__ import annotations

import sys
from pathlib import Path

from safemerge import similarity_table


def status(field: str) -> int:
    """A line of /proc/self/status in bytes; Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


if __name__ == "__main__":
    before = status("VmRSS")
    similarity_table(base=sys.argv[1], aligned=sys.argv[2], adapter=sys.argv[3])
    print(status("VmHWM") - before)
