"""What a data set is: where it lies in each source, and how its rows become training examples or evaluation items."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

from data.github import GithubFile
from data.schema import Example, Item

Row = dict[str, Any]  # in the columns of the original


class Place(TypedDict, total=False):
    """Where one data set lies, in place of what its source says; absent or None: as the source says."""

    id: str | None  # on the hub, as config, split, revision and gated
    config: str | None
    split: str | None
    revision: str | None
    gated: bool | None
    test_ids: str | None  # the file of PubMedQA's test ids
    file: str | None
    bundled: str | None  # easier problems beside the bundled ones
    target: str | None  # package.module.NAME of a Dataset from outside


class Source(TypedDict, total=False):
    """Where data comes from: the `data` section of the config, without its limits."""

    source: Literal["bundled", "local", "hub"]
    root: str | None
    datasets: Mapping[str, Place]


BUNDLED: Source = {"source": "bundled", "root": None, "datasets": {}}
BUNDLED_ROOT = Path(__file__).with_name("bundled")


@dataclass(frozen=True)
class Dataset:
    """All facts of one data set; it stands in the set's own module. `split` is "train" or "test" throughout.

    Attributes:
        bundled: files by split, below data/bundled or absolute.
        local: files by split, below `data.root`; a folder, where the set is several files.
        examples: training examples of the rows; None where the set only tests.
        items: evaluation items of the rows; None where the set only trains.
        hub_split: the hub's name of a split, where it is another one.
        github: the file, for a set that is not on the hub.
        files: what a folder must hold, for a set of several files.
        read_folder: the rows of such a folder.
        of_object: the rows of a file that holds one JSON object instead of them.
        plausible: whether the cells of a CSV row can belong to their columns (`data.files.csv_rows`).
        divided: the rows of a split among those of both, as the hub has them, or a file of one's own for both; called with
            the rows, the split and the set's `data.datasets` entry.
        division: what `divided` depends on besides the rows, for the fingerprint.
        keep: which rows count.
        reading: raised when the rows of the same file of one's own become others: what was made of it is made anew.
    """

    name: str
    bundled: Mapping[str, str | Path] = field(default_factory=dict)
    local: Mapping[str, str] = field(default_factory=dict)
    examples: Callable[[list[Row]], list[Example]] | None = None
    items: Callable[[list[Row]], list[Item]] | None = None
    hub_split: Mapping[str, str] = field(default_factory=dict)
    github: GithubFile | None = None
    files: tuple[str, ...] = ()
    read_folder: Callable[[Path], list[Row]] | None = None
    of_object: Callable[[Row], list[Row]] | None = None
    plausible: Callable[[Row], bool] | None = None
    divided: Callable[[list[Row], str, Place], list[Row]] | None = None
    division: Callable[[Place], str] | None = None
    keep: Callable[[Row], bool] | None = None
    reading: int = 1

    def parts(self, path: Path) -> list[Path]:
        """The files that a path of this set stands for."""
        return [path / name for name in self.files] if self.files and not path.suffix else [path]
