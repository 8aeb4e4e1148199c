"""Content-addressed artifacts: computed once, shared by all runs, never half-written.

An artifact lives in `store/<stage>/<key>/`. The key is a hash of everything its content depends on, so two runs that
need the same thing find the same folder. Work happens in a sibling, `<key>.partial/`, which survives an interruption
(stages resume from what is in it) and is renamed when complete. A lock per key (`pipeline.locks`) lets parallel jobs
share one store. An artifact whose files are not what its manifest says (`pipeline.integrity`) counts as missing: it is
made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline import integrity, locks
from pipeline.unkeyed import NOTHING, Unkeyed

#: Raise a stage's number when its code changes what it writes: older artifacts are then left alone and made anew.
VERSIONS = {
    "prepare": 1,
    "prepare/items": 2,  # of one kind of what a stage makes: the others stay as they are
    "finetune": 5,
    "similarity": 3,
    "merge": 2,
    "generate": 6,
    "parity": 4,
    "likelihood": 1,
    "judge": 2,
    "check": 1,
    "lm_eval": 1,
}

MANIFEST = "manifest.json"
DONE = "done.json"  # written into a partial artifact by the worker when its content is complete


def digest(value: Any) -> str:
    """Hash of a JSON value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


@dataclass(frozen=True)
class External:
    """Something made elsewhere, such as an adapter that the user brings. Keyed by its content, not its path."""

    name: str
    path: Path

    @cached_property
    def key(self) -> str:
        from pipeline.content import folder_digest

        return folder_digest(self.path, {".json", ".safetensors", ".bin"})


@dataclass(frozen=True)
class Step:
    """One artifact to be: the stage that makes it, the settings it depends on, and what it is made from."""

    stage: str
    name: str  # for people; not part of the key
    settings: Mapping[str, Any]
    inputs: Mapping[str, Step | External] = field(default_factory=dict)
    unkeyed: Unkeyed = NOTHING  # what changes no result: batch sizes, devices

    @property
    def version(self) -> int:
        """Of the code that makes it."""
        return VERSIONS.get(f"{self.stage}/{self.settings.get('what')}", VERSIONS[self.stage])

    @cached_property
    def key(self) -> str:
        return digest(
            {
                "stage": self.stage,
                "version": self.version,
                "settings": dict(self.settings),
                "inputs": {role: source.key for role, source in self.inputs.items()},
            }
        )


class Store:
    """The folder of finished artifacts. `locks`: native or lease (`pipeline.locks`), the same for all that share it."""

    def __init__(self, root: Path, locks: str = "native") -> None:
        self.root, self.locks = root.absolute(), locks
        self._looked: dict[Path, tuple[tuple[int, ...], str | None]] = {}

    def path(self, source: Step | External) -> Path:
        return (
            source.path.absolute() if isinstance(source, External) else self.root / source.stage / source.key
        )

    def partial(self, step: Step) -> Path:
        return self.root / step.stage / f"{step.key}.partial"

    def has(self, source: Step | External) -> bool:
        """Whether it is there, as it was made."""
        return isinstance(source, External) or (
            (self.path(source) / MANIFEST).exists() and self.damage(source) is None
        )

    def damage(self, step: Step) -> str | None:
        """What is wrong with an artifact that is there; None: nothing, or there is none. Looked at once per manifest."""
        folder = self.path(step)
        try:
            found = (folder / MANIFEST).stat()
        except OSError:
            return None
        seen = (found.st_ino, found.st_mtime_ns, found.st_size)
        known = self._looked.get(folder)
        if known is None or known[0] != seen:
            known = self._looked[folder] = seen, integrity.damage(folder, folder / MANIFEST)
        return known[1]

    def set_aside(self, step: Step) -> None:
        """Move what lies where the artifact is to be: damaged, or without its manifest. Its lock must be held."""
        folder = self.path(step)
        if folder.exists():
            aside = folder.with_name(f"{step.key}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(folder, aside)

    @contextlib.contextmanager
    def claim(
        self, steps: Sequence[Step], waiting: Callable[[], None] = lambda: None
    ) -> Iterator[list[Step]]:
        """Hold the locks of those missing ones among `steps` that no other process is making; yields these.

        If others make all of them, wait: until one of these is left alone, unmade (its maker was killed), or all are there.

        waiting: called once if it comes to that.
        """

        def missing() -> dict[Path, Step]:
            return {self._lock(s): s for s in steps if not self.has(s)}

        # In the order of names: of two jobs that want the same set, the first has it all.
        paths = sorted(missing())
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        if not paths:
            yield []
            return
        with locks.some(paths, self.locks, lambda: not missing(), waiting) as held:
            yield [step for path, step in missing().items() if path in held]
            left = missing()
            for path in held:
                if path not in left and self.locks == "native":  # a lease's file goes with the lease
                    path.unlink(missing_ok=True)

    def _lock(self, step: Step) -> Path:
        # Neither kind may find the other's file, which it would wait for.
        return self.root / step.stage / f"{step.key}.{'lock' if self.locks == 'native' else 'lease'}"

    def commit(self, step: Step, manifest: Mapping[str, Any]) -> None:
        """Finish a partial artifact. The rename is the only moment at which it appears."""
        partial = self.partial(step)
        its = integrity.sealed({**manifest, integrity.FILES: integrity.records(partial)})
        (partial / MANIFEST).write_text(json.dumps(its, indent=1, default=str) + "\n")
        os.replace(partial, self.path(step))
        (self.path(step) / DONE).unlink(missing_ok=True)  # not before: a kill in between would lose the work
