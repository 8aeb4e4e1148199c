"""`python -m tests.miniatures FOLDER`: every miniature, and the data sets."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.miniatures import models, repositories

root = Path(sys.argv[1])
for its in models.ALL:
    made = repositories.model(its.id, root)
    print(
        f"{made.id} @ {made.commit[:8]}  {sum(f.stat().st_size for f in made.files().values()) / 1e6:.0f} MB"
    )
for data in repositories.data_sets(root):
    print(f"{data.id} @ {data.commit[:8]}  {', '.join(data.files())}")
