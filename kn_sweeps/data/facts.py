"""One's own facts: a table with a row an edit, under the names that `fields` knows."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from kn_sweeps.cases import LMKind
from kn_sweeps.data.base import Loaded
from kn_sweeps.data.fields import RecordReader, named, unknown, usable_names
from kn_sweeps.data.gathering import Gathered, Limits
from kn_sweeps.data.records import Sorted
from kn_sweeps.data.tables import TableFile, read_table
from kn_sweeps.mistakes import did_you_mean
from kn_sweeps.records.files import user_path
from kn_sweeps.records.hashing import digests


@dataclass(frozen=True, kw_only=True)
class OwnFile:
    """A data set that is one file of the user's.

    Attributes:
        path: The file.
    """

    usual_limit: ClassVar[int | None] = None

    path: str

    def pinned(self) -> Self:
        """The file is what it is: `fingerprint` tells another content."""
        self.file()
        return self

    def fingerprint(self) -> str:
        """Twelve hex digits of the file's content and of what its cases are called after."""
        whole = f"{self.source_name()} {digests([self.file()])[0]}"
        return hashlib.sha256(whole.encode()).hexdigest()[:12]

    def file(self) -> Path:
        """Where it is.

        Raises:
            ValueError: If it is not there.
        """
        path = user_path(self.path).absolute()
        if not path.is_file():
            there = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
            near = did_you_mean(path.name, there)
            raise ValueError(f"dataset.path names the file {path}, which is not there{near}")
        return path

    def source_name(self) -> str:
        """What the file is called, as cases and tables have it."""
        return re.sub(r"[^\w.-]+", "_", self.file().name.split(".")[0])


@dataclass(frozen=True, kw_only=True)
class Facts(OwnFile, Limits):
    """Facts of one's own, with the questions that a row has."""

    def load(self, kind: LMKind, *, seed: int, limit: int | None, editable: bool) -> Loaded:
        """Make the cases; every fact can be edited, so `editable` changes nothing."""
        del editable
        path = self.file()
        table = read_table(path)
        _check_columns(table)
        reader = RecordReader(cells=table.cells)
        gathered = Gathered(self.source_name(), notes=reader.cleaning.notes)
        gathered.notes.update(unknown(table.columns))
        gathered.read(table, lambda entry: [reader(entry.values)], strict=True, known=Sorted())
        cases, report = gathered.cases(
            table, kind, seed=seed, limit=limit, most=self.most(strict=True)
        )
        return Loaded(tuple(cases), (report,), "local")


def _check_columns(table: TableFile) -> None:
    """Refuse a table without a prompt or a new answer.

    Raises:
        ValueError: With the columns there are and the nearest name.
    """
    found = {one.part for column in table.columns if (one := named(column)) is not None}
    missing = [part for part in ("prompt", "new") if part not in found]
    if missing:
        unplaced = [column for column in table.columns if named(column) is None]
        hints = [
            f"{column!r}{near}"
            for column in unplaced
            if (near := did_you_mean(column, usable_names()))
        ]
        raise ValueError(
            f"{table.path}: no column {' and no '.join(map(repr, missing))}; the columns are "
            + ", ".join(map(repr, table.columns))
            + f"; {', '.join(hints)}" * bool(hints)
        )
