"""What stands in for the module wandb in tests: it records what it is told."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any


class FakeRun:
    def __init__(self) -> None:
        self.config, self.summary, self.logged, self.artifacts = (
            SimpleNamespace(update=self.update),
            {},
            [],
            [],
        )
        self.settings: dict[str, Any] = {}
        self.code: int | None = None

    def update(self, values: dict[str, Any], **options: Any) -> None:
        self.settings |= values

    def define_metric(self, *args: Any, **options: Any) -> None: ...

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)

    def log_artifact(self, artifact: Any) -> None:
        self.artifacts.append(artifact)

    def finish(self, exit_code: int = 0) -> None:
        self.code = exit_code


class FakeArtifact:
    def __init__(self, name: str, type: str, metadata: Any = None) -> None:
        self.name, self.type, self.files = name, type, []

    def add_dir(self, folder: str) -> None:
        self.files += [p.name for p in Path(folder).iterdir()]

    def add_file(self, file: str) -> None:
        self.files.append(Path(file).name)


def stand_in() -> SimpleNamespace:
    """The module; `asked` holds what init was given, `run` what was logged."""
    fake = SimpleNamespace(run=FakeRun(), asked={}, Artifact=FakeArtifact, Settings=lambda **k: k)

    def init(**options: Any) -> FakeRun:
        fake.asked = options
        return fake.run

    fake.init = init
    fake.Table = lambda columns, data: {"columns": columns, "data": data}
    fake.Image = lambda path: path
    return fake
