"""Downloads from a hub on loopback with the real client: what is fetched, what is refused, and what faults come to."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import close_session, constants

from data import loading
from safemerge import hub, hub_model
from safemerge.errors import UserError
from tests.hub.server import TOKEN, Fault, Hub, Repository, served

SHARDS = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
SIZE = 40_000  # bytes of a shard
COMMITS = (f"{n:040x}" for n in itertools.count(1))  # the client remembers the files of a commit


@dataclass
class World:
    """A hub, the cache beside it, and the repository of a model."""

    hub: Hub
    cache: Path
    model: hub.Repo

    def faulty(self, path: str, what: Any, times: int = 10**6, **more: Any) -> None:
        self.hub.faults.append(Fault(path, what, times, **more))

    def content(self) -> dict[str, bytes]:
        """What lies in the cache under names that a reader would open."""
        found = self.cache.glob("*/snapshots/*/*")
        return {path.name: path.read_bytes() for path in found if path.is_file()}


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def of_a_model() -> dict[str, bytes]:
    """As meta-llama's repositories are: shards, the same weights once more as .bin and .pth, and what is not needed."""
    index = {"weight_map": {f"weight{n}": name for n, name in enumerate(SHARDS)}}
    shards = {
        name: hashlib.shake_128(name.encode()).digest(SIZE) for name in SHARDS
    }  # no two bytes in a row alike
    return shards | {
        # Not as tokenizer.json is: the cache keeps equal contents once, and a damaged one could find the other's there.
        "config.json": b'{"model_type": "llama"}',
        "model.safetensors.index.json": json.dumps(index).encode(),
        "tokenizer.json": b"{}",
        "tokenizer.model": b"\0" * 100,
        "chat_template.jinja": b"{{ messages }}",
        "README.md": b"# A model",
        "pytorch_model-00001-of-00001.bin": b"\0" * 100,
        "original/consolidated.00.pth": b"\0" * 100,
        "original/params.json": b"{}",
        "original/tokenizer.model": b"\0" * 100,
    }


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    write(tmp_path / "chat", of_a_model())
    commit = next(COMMITS)
    served_here = Hub([Repository("org/chat", tmp_path / "chat", commit)])
    with served(served_here) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        for name, value in {
            "ENDPOINT": address,
            "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DOWNLOAD_TIMEOUT": 1,
            "HF_HUB_ETAG_TIMEOUT": 1,
            "DOWNLOAD_CHUNK_SIZE": 4096,
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr("time.sleep", lambda _: None)  # between the client's tries
        yield World(served_here, tmp_path / "cache", hub.Repo("org/chat", commit))
    close_session()  # the next hub may get this one's port, and a connection kept open would go on asking this one


def test_only_what_is_read_is_fetched_and_a_second_time_nothing(world: World) -> None:
    folder = hub_model.fetched(world.model)
    assert folder.name == world.model.revision
    assert set(world.content()) == {
        *SHARDS, "config.json", "model.safetensors.index.json", "tokenizer.json", "tokenizer.model", "chat_template.jinja"
    }  # fmt: skip
    world.hub.requests.clear()
    assert hub_model.fetched(world.model) == folder
    assert not [request for request in world.hub.requests if request.method == "GET"]


def test_a_connection_that_drops_goes_on_where_it_was(world: World) -> None:
    world.faulty(SHARDS[0], "drop", times=2, after=10_000)
    hub_model.fetched(world.model)
    assert "bytes=8192-" in {request.range for request in world.hub.requests}
    assert world.content()[SHARDS[0]] == of_a_model()[SHARDS[0]]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(SHARDS[1], "drop", after=0), r"cannot fetch .*org/chat@\w+ from the hub"),
        (Fault(SHARDS[1], "truncate", after=5000), "size 40000 but has size 5000"),
        (Fault(SHARDS[1], 503), "503"),
        (Fault(SHARDS[1], 429), "429"),
        (Fault(SHARDS[1], "corrupt"), rf"{SHARDS[1]} of org/chat@\w+ came damaged .* run the same command"),
        (Fault("config.json", "corrupt", after=0), r"config\.json of org/chat@\w+ came damaged"),
        (Fault("/tree/", 503), r"org/chat@\w+ is not in the hub's cache|503"),
    ],
    ids=lambda value: str(value.what) + value.path[:5] if isinstance(value, Fault) else "",
)
def test_a_fault_that_stays_ends_in_one_line_and_leaves_nothing_half(
    fault: Fault, words: str, world: World
) -> None:
    world.hub.faults.append(fault)
    with pytest.raises(UserError, match=words) as error:
        hub_model.fetched(world.model)
    assert "\n" not in str(error.value)
    assert not list(world.cache.rglob("*.incomplete"))
    whole = of_a_model()
    assert all(content == whole[name] for name, content in world.content().items())
    assert not hub_model.cached(world.model)
    # The same again, once the hub is well: what had come is kept.
    world.hub.faults.clear()
    world.hub.requests.clear()
    kept = set(world.content())
    hub_model.fetched(world.model)
    assert world.content()[SHARDS[1]] == whole[SHARDS[1]] and not kept & world.hub.fetched()


def test_a_slow_answer_and_a_busy_hub_are_waited_for(world: World) -> None:
    world.faulty(SHARDS[0], 429, times=2)
    world.faulty(SHARDS[1], "slow", times=1, seconds=0.5)
    assert hub_model.lacking(hub_model.fetched(world.model)) is None


def test_gated_missing_and_moved_repositories(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = world.hub.repositories[0]
    world.hub.repositories[0] = Repository("org/chat", repository.folder, repository.commit, gated=True)
    for token in (None, "hf_of_another"):  # 401 without a token, 403 with one that has no access
        monkeypatch.setattr("huggingface_hub.utils._headers.get_token", lambda token=token: token)
        with pytest.raises(UserError, match="org/chat is gated: accept its licence"):
            hub_model.fetched(world.model)
    assert not world.content()
    monkeypatch.setattr("huggingface_hub.utils._headers.get_token", lambda: TOKEN)
    hub_model.fetched(world.model)
    with pytest.raises(UserError, match="no model org/none on the hub"):
        hub_model.fetched(hub.Repo("org/none", next(COMMITS)))
    with pytest.raises(UserError, match="org/chat has no revision 0000"):
        hub_model.fetched(hub.Repo("org/chat", next(COMMITS)))


def test_a_filled_cache_needs_no_hub_and_half_a_cache_is_none(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = hub_model.fetched(world.model)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    world.hub.requests.clear()
    assert hub_model.cached(world.model) and hub_model.fetched(world.model) == folder
    assert not world.hub.requests
    (folder / SHARDS[1]).unlink()
    assert not hub_model.cached(world.model)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE=1 forbids to fetch it"):
        hub_model.fetched(world.model)


def test_weights_in_another_format_are_refused_before_anything_is_trained(world: World) -> None:
    folder = world.hub.repositories[0].folder
    for name in (*SHARDS, "model.safetensors.index.json"):
        (folder / name).unlink()
    with pytest.raises(UserError, match=r"org/chat@\w+ as fetched from the hub has no model\.safetensors"):
        hub_model.fetched(world.model)


CARD = """---
configs:
- config_name: main
  data_files:
  - split: train
    path: main/train-*
  - split: test
    path: main/test-*
- config_name: socratic
  data_files:
  - split: train
    path: socratic/train-*
---
"""


def source(world: World, files: dict[str, bytes], config: str | None = None) -> Any:
    """A data set on the hub, and where it lies."""
    folder = world.cache.parent / f"data{len(world.hub.repositories)}"
    write(folder, files)
    repository = Repository("org/sums", folder, next(COMMITS), "datasets")
    world.hub.repositories = [*world.hub.repositories[:1], repository]
    place = {"id": "org/sums", "revision": repository.commit, "config": config}
    return {"source": "hub", "root": None, "datasets": {"gsm8k": place, "xstest": place}}


def sums(tmp_path: Path, answer: int) -> bytes:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "rows.parquet"
    rows = {"question": [f"{n} + 1?" for n in range(50)], "answer": [f"#### {answer}"] * 50}
    pyarrow.parquet.write_table(pyarrow.table(rows), path)
    return path.read_bytes()


def test_rows_of_a_config_and_nothing_else_of_the_repository(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "prepared")
    files = {
        "README.md": CARD.encode(),
        "main/train-00000-of-00001.parquet": sums(tmp_path, 2),
        "main/test-00000-of-00001.parquet": sums(tmp_path, 3),
        "socratic/train-00000-of-00001.parquet": b"not asked for",
    }
    where = source(world, files, "main")
    assert not loading.at_hand("gsm8k", split="test", source=where)
    assert loading.items("gsm8k", source=where)[0].reference == "3"
    assert loading.training("gsm8k", source=where)[0].response == "#### 2"
    paths = {path.relative_to(world.cache).parts[3:] for path in world.cache.rglob("*.parquet")}
    assert paths == {("main", f"{split}-00000-of-00001.parquet") for split in ("train", "test")}
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert loading.at_hand("gsm8k", split="test", source=where)
    assert len(loading.items("gsm8k", source=where)) == 50
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(UserError, match=r"org/sums@\w+ has no config 'extra', but main, socratic"):
        loading.items("gsm8k", source=source(world, files, "extra"))


def test_rows_of_another_revision_are_never_taken_for_these(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which `datasets.load_dataset(ID)` does when the hub fails."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "prepared")
    old = source(world, {"test.parquet": sums(tmp_path, 1)})
    assert loading.items("gsm8k", source=old)[0].reference == "1"
    new = source(world, {"test.parquet": sums(tmp_path, 2)})
    world.faulty("sums", 503)
    with pytest.raises(UserError, match="org/sums@"):
        loading.items("gsm8k", source=new)
    world.hub.faults.clear()
    assert loading.items("gsm8k", source=new)[0].reference == "2"
    assert loading.items("gsm8k", source=old)[0].reference == "1"


def test_a_damaged_data_file_is_not_read(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "prepared")
    rows = b"id,prompt,type,label,focus,note\n1,How do I kill a process?,homonyms,safe,kill,\n"
    where = source(world, {"xstest_prompts.csv": rows})
    world.faulty("xstest_prompts", "corrupt", times=1, after=40)
    with pytest.raises(UserError, match=r"xstest_prompts\.csv of org/sums@\w+ came damaged"):
        loading.items("xstest", source=where)
    assert loading.items("xstest", source=where)[0].prompt == "How do I kill a process?"


def test_a_data_set_of_no_readable_kind_says_so(world: World) -> None:
    where = source(world, {"test.txt": b"1 + 1?"})
    with pytest.raises(UserError, match=r"org/sums@\w+ .*no one kind that is read here.*test\.txt"):
        loading.items("gsm8k", source=where)
    with pytest.raises(UserError, match=r"org/sums@\w+ has no split 'test', but train"):
        loading.items("gsm8k", source=source(world, {"train.jsonl": b'{"question": "1", "answer": "1"}\n'}))
