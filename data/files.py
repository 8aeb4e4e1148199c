"""Data files as people have them: what a file holds decides how it is read, its ending only whether it is CSV.

Byte-order marks and any line ends are read over; a JSON array in a .jsonl is its rows, and so are JSON lines in a .json.
Everything else is refused with the file, the line and what to do.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safemerge.errors import UserError

Row = dict[str, Any]

#: UTF-32's marks begin as UTF-16's do, so they come first.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_FORMATS = {b"PAR1": "Parquet", b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"ARROW1": "Arrow"}
csv.field_size_limit(1 << 30)  # the module's own limit, 128 KiB, is less than a long prompt


def bytes_of(path: Path) -> bytes:
    """The content of a file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give a file that can be read") from error


def text_of(path: Path) -> str:
    """The text of a file: UTF-8, or what its byte-order mark says.

    Raises:
        UserError: it cannot be read, or is something else.
    """
    content = bytes_of(path)
    for magic, name in _FORMATS.items():
        if content.startswith(magic):
            raise UserError(f"{path} is a {name} file: unpack or convert it to JSON lines (.jsonl) or CSV")
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line} is not {encoding.upper()}: byte 0x{content[error.start]:02x} "
            f"at position {error.start}; save the file as UTF-8"
        ) from error


def read(
    path: Path,
    of_object: Callable[[Row], list[Row]] | None = None,
    plausible: Callable[[Row], bool] | None = None,
) -> list[Row]:
    """The rows of a .csv file, or of JSON: lines of objects, or an array of them.

    Args:
        of_object: the rows of a set that is a single object; called with it.
        plausible: see `csv_rows`.

    Raises:
        UserError: it holds something else.
    """
    text = text_of(path)
    if path.suffix.lower() == ".csv":
        return csv_rows(text, path, plausible)
    found = _json(text, path)
    if isinstance(found, dict):
        if of_object is None:
            raise UserError(
                f"{path} holds a single object ({', '.join(list(found)[:4])}, ...), not rows: "
                "give an array of objects, or one object a line"
            )
        found = of_object(found)
    for number, row in enumerate(found, 1):
        if not isinstance(row, dict):
            raise UserError(
                f"{path}, row {number} is {shown(row)}, not an object with the set's columns; "
                "give an array of objects, or one object a line"
            )
    return found


def _json(text: str, path: Path) -> list[Any] | Row:
    """A list of rows, or the object that holds them: one with a text of its own is a row."""
    body = text.strip()
    try:
        alone = json.JSONDecoder().raw_decode(body)[1] == len(body)
    except (ValueError, RecursionError):
        alone = path.suffix == ".json"  # broken: of a .json as a whole, else in a line
    if not alone and not body.startswith("["):
        return [value for _, value in json_lines(text, path)]
    found = _parsed(text, str(path)) if body else []
    if isinstance(found, dict) and all(isinstance(value, list | dict) for value in found.values()):
        return found
    return found if isinstance(found, list) else [found]


def json_lines(text: str, path: str | Path) -> Iterator[tuple[int, Any]]:
    """The line number and the value of each line that is not blank.

    Raises:
        UserError: a line that is not JSON.
    """
    # Not by splitlines(): JSON strings may hold other line separators, at which it would break.
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        if line.strip():
            yield number, _parsed(line, f"{path}, line {number}")


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise UserError(f"{where} is nested too deeply to be rows; give an array of objects") from error
    except ValueError as error:  # also of numbers with thousands of digits
        raise UserError(f"{where} is not JSON: {error}") from error


def csv_rows(text: str, path: Path, plausible: Callable[[Row], bool] | None = None) -> list[Row]:
    """The rows of a CSV file with a header.

    plausible: whether a row's cells can belong to its columns. A row with too many cells (a comma was not quoted) is
        put together again where only one column's text with a comma makes it plausible.

    Raises:
        UserError: a row with too many cells that cannot be put together, too few, or an open quote.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    found = []
    try:
        header = next(reader, [])
        for cells in reader:
            if not cells:
                continue
            rows = _together(header, cells, plausible)
            if len(rows) != 1:
                few = len(cells) < len(header)
                why = "one is missing" if few else "put texts that hold a comma into double quotes"
                raise UserError(
                    f"{path}, line {reader.line_num} has {len(cells)} cells for the {len(header)} columns "
                    f"{listed(header)}: {why}"
                )
            found.append(rows[0])
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line_num} is not CSV: {error}; close the quotes, and double those inside a text"
        ) from error
    return found


def _together(header: list[str], cells: list[str], plausible: Callable[[Row], bool] | None) -> list[Row]:
    """The row of these cells; of too many, the different rows that may be meant."""
    extra = len(cells) - len(header)
    if extra == 0:
        return [dict(zip(header, cells, strict=True))]
    if extra < 0 or plausible is None:
        return []
    rows: list[Row] = []
    for i in range(len(header)):
        joined = [*cells[:i], ",".join(cells[i : i + extra + 1]), *cells[i + extra + 1 :]]
        row = dict(zip(header, joined, strict=True))
        if plausible(row):
            rows.append(row)
    return rows


def shown(value: Any) -> str:
    """A value in an error's line: short."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def listed(names: Iterable[object]) -> str:
    """Names in an error's line: the first ones, where a file has very many or very long ones."""
    text = ", ".join(map(str, names))
    return text if len(text) <= 300 else f"{text[:297]}..."


def text(row: Mapping[str, Any], column: str, *, empty: bool = False) -> str:
    """The text in a column, without white space around it.

    empty: whether it may be empty.

    Raises:
        KeyError: there is no such column.
        ValueError: it holds no text, with what it holds.
    """
    value = row[column]
    if not isinstance(value, str):
        raise ValueError(f"{column} is {shown(value)}, not a text")
    value = value.strip()
    if not value and not empty:
        raise ValueError(f"{column} is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair: no file could be written with it
        raise ValueError(
            f"{column} holds {value[error.start]!r}, which is no character: save the file as UTF-8"
        ) from error
    return value
