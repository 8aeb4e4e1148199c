"""Revisions of the hub that may move, such as `main`, as the commits that they stand for when the run is planned.

A key that held the word would go on naming the rows of a data set that has become another one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from pipeline.judge_settings import HubJudge
from pipeline.settings import Config, DatasetPlace, HubMember
from safemerge import hub
from safemerge.errors import UserError

Named = HubMember | HubJudge | DatasetPlace


def data_sets(config: Config) -> dict[str, DatasetPlace]:
    """The data sets that this experiment reads from the hub."""
    if config.data.source != "hub":
        return {}
    used = {config.task.dataset, "safety", *(benchmark.dataset for benchmark in config.benchmark.values())}
    if config.model.aligned.kind == "tuned":
        used.add("helpful")
    places = config.data.datasets.items()
    return {name: place for name, place in places if name in used and place.id and not place.file}


def _named(config: Config) -> Iterator[tuple[Named, hub.Repo]]:
    """Everything of the hub that this experiment uses, as configured and as the hub names it."""
    for node in (config.model.base, config.model.aligned, *config.judge.values()):
        if isinstance(node, HubMember | HubJudge):
            yield node, hub.Repo(node.id, node.revision)
    for place in data_sets(config).values():
        yield place, hub.Repo(str(place.id), place.revision, "dataset")


@functools.cache
def _commit(repo: hub.Repo, online: bool) -> str:
    """The same for all jobs of a sweep, also if the branch moves in between."""
    return hub.commit(repo, online=online)


def pinned(config: Config) -> tuple[Config, list[str]]:
    """The config with commits for revisions, and a line for each revision that could not be resolved and stays."""
    config = config.model_copy(deep=True)
    moving = [(node, repo) for node, repo in _named(config) if not repo.pinned]
    online = bool(moving) and hub.reachable()
    lines = []
    for node, repo in moving:
        try:
            node.revision = _commit(repo, online)
        except UserError as error:
            lines.append(str(error))
    return config, list(dict.fromkeys(lines))
