"""Benchmarks of editing: files of the literature, each read by the layout that its fields tell."""

from __future__ import annotations

import hashlib
import json
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from kn_sweeps.cases import Case, LeftOut, LMKind
from kn_sweeps.data.base import Loaded, Official, left_out
from kn_sweeps.data.fields import RecordReader, named, unknown
from kn_sweeps.data.gathering import Gathered, Limits, Read
from kn_sweeps.data.records import Sorted
from kn_sweeps.data.sources import Source, check_names, hub_folder
from kn_sweeps.data.tables import ENDINGS, Entry, TableFile, read_json, read_table
from kn_sweeps.records.hashing import digests
from kn_sweeps.records.hub import commit_of

_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_HIDDEN = re.compile(r"(^|/)[._]")
NATIVE = "requested_rewrite"
"""A field of the layouts that flat ones are made from."""
NO_ROWS = "what a file says that has no rows"
TEMPLATES = "templates beside the facts, which are asked as they are written"


@dataclass(frozen=True, kw_only=True)
class Published(Official):
    """Files that are published elsewhere, of which none ships.

    Attributes:
        source: `hub`, or `local`.
        repository: The hub's data set, `OWNER/NAME`; null where none is known.
        files: Which files, by their names without ending; null for all.
    """

    source: str = "hub"
    repository: str | None = None
    files: tuple[str, ...] | None = None

    def commit(self) -> str:
        """The hub's commit."""
        if self.repository is None:
            raise ValueError(
                f"no repository of the hub is known for dataset={self.folder}: name one with "
                "dataset.repository=OWNER/NAME"
            )
        return commit_of(self.repository, self.revision, "dataset")

    def resolved(self) -> Source:
        """Where the files are read from; see `Official.resolved`."""
        if self.source == "bundled" and self.root is None:
            raise ValueError(
                f"nothing of dataset={self.folder} is bundled: use dataset.source=hub, or name "
                "the folder of its files with dataset.root=DIR or KN_SWEEPS_DATA=DIR"
            )
        return super().resolved()

    def fingerprint(self) -> str:
        """Twelve hex digits of the files that are read, or of their commit."""
        source = self.resolved()
        if source.root is None:
            return source.fingerprint()
        paths = [path for paths in self.read_from(source).values() for path in paths]
        names = [str(path.relative_to(source.root)) for path in paths]
        text = json.dumps([names, digests(paths)])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def read_from(self, source: Source) -> dict[str, list[Path]]:
        """The files by what they are called; those that are parts of one are together.

        Of a repository of the hub that has files of several data sets, those in whose path this
        one's name is are read, unless `files` says otherwise.

        Raises:
            ValueError: If there is none, or a name is unknown.
        """
        if source.root is not None:
            folder, told = source.root, ""
        else:
            assert self.repository is not None
            folder, told = hub_folder(self.repository, source), _bare(self.folder)
        found: dict[Path, list[Path]] = {}
        for path in sorted(folder.rglob("*")):
            place = path.relative_to(folder)
            bare = Path(path.name.removesuffix(".gz"))
            if bare.suffix.lower() in ENDINGS and not _HIDDEN.search(str(place)):
                found.setdefault(place.with_name(_SHARD.sub("", bare.stem)), []).append(path)
        if not found:
            raise ValueError(f"{folder} has no data file; expected {', '.join(ENDINGS)}")
        stems = Counter(place.name for place in found)
        named = {
            place: re.sub(r"[^\w.-]+", "_", place.name if stems[place.name] == 1 else str(place))
            for place in found
        }
        own = [place for place in found if told and told in _bare(str(place))]
        if self.files is None:
            return {named[place]: found[place] for place in own or found}
        check_names(self.files, list(named.values()), "file")
        return {
            name: found[place]
            for wanted in self.files
            for place, name in named.items()
            if name == wanted
        }


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


@dataclass(frozen=True, kw_only=True)
class Benchmark(Published, Limits):
    """Facts to edit and the questions that judge each, in a published layout."""

    layouts: ClassVar[str] = ""
    """What its rows have, for the message where a file has something else."""

    @abstractmethod
    def reading(self, table: TableFile, reader: RecordReader, seed: int) -> Read | None:
        """What makes records of a file's rows; None where it has another layout.

        Args:
            table: All rows, where one tells what another is asked.
            reader: Reads flat rows.
            seed: For what is drawn.
        """

    def load(self, kind: LMKind, *, seed: int, limit: int | None, editable: bool) -> Loaded:
        """Make the cases; every fact can be edited, so `editable` changes nothing."""
        del editable
        source = self.resolved()
        known = Sorted()
        cases: list[Case] = []
        reports: list[LeftOut] = []
        tables: dict[str, TableFile] = {}
        for name, paths in self.read_from(source).items():
            if self.files is None and (other := no_table(paths[0])):
                reports.append(left_out(name, 0, other))
                continue
            tables[name] = joined([read_table(path) for path in paths])
        # Of a fact that is in several files, the layout that says most is used.
        for name, table in sorted(tables.items(), key=lambda one: NATIVE not in one[1].columns):
            reader = RecordReader(cells=table.cells)
            read = self.reading(table, reader, seed) or flat(table, reader)
            if read is None:
                told = (
                    f"{table.path}: not a layout of dataset={self.folder}: its fields are "
                    f"{', '.join(map(repr, table.columns[:20]))}; expected {self.layouts}"
                )
                if self.files is not None or len(tables) == 1:
                    raise ValueError(told)
                reports.append(left_out(name, 0, Counter({told: len(table.entries)})))
                continue
            gathered = Gathered(name, notes=reader.cleaning.notes)
            gathered.read(table, read, strict=False, known=known)
            made, report = gathered.cases(
                table, kind, seed=seed, limit=limit, most=self.most(strict=False)
            )
            cases += made
            reports.append(report)
        if not cases:
            why = "; ".join(map(str, reports))
            raise ValueError(f"dataset={self.folder} has no fact that can be used: {why}")
        return Loaded(tuple(cases), tuple(reports), source.name)


def no_table(path: Path) -> Counter[str]:
    """What a JSON file is that has one object and no list of rows; nothing for a table.

    Raises:
        ValueError: If it cannot be read.
    """
    if path.suffix.lower() != ".json":
        return Counter()
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        if not file.read(100).lstrip().startswith("{"):
            return Counter()
    try:
        whole = read_json(path)
    except ValueError:
        return Counter()  # an object a line, perhaps; reading it as a table tells
    if any(isinstance(one, list) and one for one in whole.values()):
        return Counter()
    texts = all(isinstance(one, str) for one in whole.values())
    return Counter({TEMPLATES if texts else NO_ROWS: len(whole)})


def joined(tables: Sequence[TableFile]) -> TableFile:
    """The rows of a file's parts, one after the other."""
    if len(tables) == 1:
        return tables[0]
    entries = [
        Entry(f"{table.path.name}, {entry.where}", entry.values)
        for table in tables
        for entry in table.entries
    ]
    return TableFile(tables[0].path, entries, tables[0].cells)


def flat(table: TableFile, reader: RecordReader) -> Read | None:
    """What reads rows whose fields are those of one's own facts; None if they are not."""
    parts = {one.part for column in table.columns if (one := named(column)) is not None}
    if not {"prompt", "new"} <= parts:
        return None
    reader.cleaning.notes.update(unknown(table.columns))
    return lambda entry: [reader(entry.values)]


def mappings(value: Any) -> Iterator[Mapping[str, Any]]:
    """The mappings of a list, or the one that there is."""
    several = value if isinstance(value, list) else [value]
    yield from (one for one in several if isinstance(one, Mapping))
