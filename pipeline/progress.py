"""How a worker tells the main process how far it is: JSON lines over an inherited pipe. Silent when there is none."""

from __future__ import annotations

import json
import os

VARIABLE = "SAFEMERGE_PROGRESS_FD"


def report(done: float, total: float, note: str = "") -> None:
    """Work done so far, out of `total` (any unit), with a short note such as the current loss."""
    fd = os.environ.get(VARIABLE)
    if fd is not None:
        line = json.dumps({"done": done, "total": total, "note": note}) + "\n"
        os.write(int(fd), line.encode())
