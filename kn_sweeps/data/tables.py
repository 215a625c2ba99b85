"""Tables people bring: CSV, TSV, JSON, JSON lines and Parquet, read so that no value changes.

Numbers stay as they are written ("1998", "3.10"), and so do texts such as "NA" and "None".
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from kn_sweeps.data.sources import CLEANED
from kn_sweeps.mistakes import did_you_mean, shortened

ENDINGS = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
SHOWN = 40
"""Names of columns in a message at most."""


@dataclass(frozen=True)
class Entry:
    """One row of a table.

    Attributes:
        where: What people call it: `row 3` (the first one below the header is row 1) or `line 4`.
        values: By column. Of CSV they are texts; of the others also lists and mappings of them.
    """

    where: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class TableFile:
    """A file's rows.

    Attributes:
        path: The file.
        entries: In its order.
        cells: Whether a value is one text, in which several may stand: CSV and TSV.
    """

    path: Path
    entries: list[Entry]
    cells: bool = False

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Every name that some row has."""
        return tuple(dict.fromkeys(name for entry in self.entries for name in entry.values))


class Fault(ValueError):
    """A row that cannot be used.

    Attributes:
        reason: What is wrong, the same for all rows with this fault.
        column: Where; empty for the row as a whole.
    """

    def __init__(self, reason: str, column: str = "", detail: str = "") -> None:
        """Say what is wrong, and in detail with what."""
        super().__init__(f"{reason}: {shortened(detail)}" if detail else reason)
        self.reason = reason
        self.column = column

    def at(self, table: TableFile, entry: Entry) -> ValueError:
        """The whole message: file, row and column, and which columns there are."""
        column = f", column {self.column!r}" if self.column else ""
        names = [repr(name) for name in table.columns[:SHOWN]]
        there = f"; the columns are {', '.join(names)}"
        return ValueError(f"{table.path}, {entry.where}{column}: {self}{there}")


def read_table(path: Path) -> TableFile:
    """The rows of a file, read by its ending.

    Raises:
        ValueError: If it is missing, of another kind, malformed or empty; the place is named.
    """
    ending = _ending(path)
    if ending not in ENDINGS:
        raise ValueError(
            f"{path}: cannot tell what kind of table it is; name it {', '.join(ENDINGS)}"
        )
    if ending == ".parquet":
        entries = _parquet(path)
    elif ending in (".csv", ".tsv"):
        entries = list(_cells(path, _text(path), "\t" if ending == ".tsv" else ","))
    else:
        entries = list(_objects(path, _text(path), lines=ending == ".jsonl"))
    if not entries:
        raise ValueError(f"{path} has no rows")
    return TableFile(path, entries, cells=ending in (".csv", ".tsv"))


def read_json(path: Path) -> Any:
    """A JSON file whatever it holds; numbers are texts, as they are written.

    Raises:
        ValueError: If it cannot be read.
    """
    return _decoded(f"{path}", _text(path))


def _ending(path: Path) -> str:
    bare = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return bare.suffix.lower()


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
        if path.suffix.lower() == ".gz":
            content = gzip.decompress(content)
    except FileNotFoundError:
        near = did_you_mean(path.name, _beside(path))
        raise ValueError(f"there is no file {path}{near}") from None
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line = before.count(b"\n") + 1
        raise ValueError(
            f"{path}, line {line}: {content[error.start : error.start + 1]!r} is no UTF-8; save "
            "the file as UTF-8"
        ) from None


def _beside(path: Path) -> list[str]:
    return [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []


def _cells(path: Path, text: str, separator: str) -> Iterator[Entry]:
    """Rows of a text with a header; spreadsheets of some countries separate cells by `;`."""
    first = text.lstrip("\r\n").split("\n", 1)[0]
    if separator == "," and "," not in first and ";" in first:
        separator = ";"
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    head: list[str] = []
    number = 0
    try:
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            if not head:
                head = _header(path, row)
                continue
            number += 1
            while len(row) > len(head) and not row[-1].strip():
                row.pop()
            if len(row) != len(head):
                raise ValueError(
                    f"{path}, row {number} (line {rows.line_num}): {len(row)} cells under "
                    f"{len(head)} columns ({shortened(', '.join(head))}); write a cell that has a "
                    f"{separator!r} in quotation marks"
                )
            yield Entry(f"row {number}", dict(zip(head, row, strict=True)))
    except csv.Error as error:
        raise ValueError(f"{path}, line {rows.line_num}: {error}") from None


def _header(path: Path, row: list[str]) -> list[str]:
    head = [name.strip() for name in row]
    while head and not head[-1]:
        head.pop()  # of a row that ends with the separator
    twice = [name for name, count in Counter(head).items() if count > 1]
    if twice or not all(head):
        what = f"two columns are called {twice[0]!r}" if twice else "a column has no name"
        raise ValueError(f"{path}: {what}; the columns are {', '.join(map(repr, head))}")
    return head


def _objects(path: Path, text: str, *, lines: bool) -> Iterator[Entry]:
    """Objects of a list, or one a line; a list of one a line is often called `.json` too."""
    if not lines and text.lstrip()[:1] != "{":
        found = _decoded(f"{path}", text)
        if not isinstance(found, list):
            raise ValueError(f"{path}: expected a list of objects, got {shortened(repr(found))}")
        for number, value in enumerate(found, start=1):
            yield Entry(f"row {number}", _object(f"{path}, row {number}", value))
        return
    if not lines:
        try:
            whole = _decoded(f"{path}", text)
        except ValueError:
            whole = None
        if whole is not None:
            yield from _only_list(path, whole)
            return
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            yield Entry(f"line {number}", _object(where, _decoded(where, line)))


def _only_list(path: Path, whole: Mapping[str, Any]) -> Iterator[Entry]:
    """The rows of an object that has one list of objects, as in `{"data": [...]}`."""
    lists = [
        value
        for value in whole.values()
        if isinstance(value, list) and value and all(isinstance(one, dict) for one in value)
    ]
    if len(lists) != 1:
        names = shortened(", ".join(map(repr, whole)))
        raise ValueError(
            f"{path}: expected a list of objects, got one object with {names or 'nothing in it'}"
        )
    for number, value in enumerate(lists[0], start=1):
        yield Entry(f"row {number}", value)


def _decoded(where: str, text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
            raise ValueError(f"{where}: the key {twice!r} stands twice in one object")
        return found

    try:
        return json.loads(text, parse_int=str, parse_float=str, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        place = f", line {error.lineno}" if "\n" in text else ""
        raise ValueError(f"{where}{place}: not JSON ({error.msg}, column {error.colno})") from None


def _object(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object, got {shortened(repr(value))}")
    return value


def _parquet(path: Path) -> list[Entry]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path).to_pylist()
    except FileNotFoundError:
        near = did_you_mean(path.name, _beside(path))
        raise ValueError(f"there is no file {path}{near}") from None
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path} is no Parquet file that can be read: {error}") from error
    return [Entry(f"row {n}", _as_texts(row)) for n, row in enumerate(rows, start=1)]


def _as_texts(value: Any) -> Any:
    """Numbers as texts, also within lists and mappings."""
    if isinstance(value, dict):
        return {key: _as_texts(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_as_texts(one) for one in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value


@dataclass
class Cleaning:
    """Cleans texts and counts how many had to be.

    Attributes:
        notes: What was noticed, and how often.
    """

    notes: Counter[str] = field(default_factory=Counter)

    def text(self, value: Any, column: str) -> str:
        """A text in Unicode's form NFC without blanks around it; empty for none.

        Raises:
            Fault: If it is something else.
        """
        if value is None:
            return ""
        if not isinstance(value, str):
            raise Fault("expected a text", column, f"got {value!r}")
        plain = value if value.isascii() else unicodedata.normalize("NFC", value)
        found = plain.strip()
        if found != value:
            self.notes[CLEANED] += 1
        return found
