"""Where data files come from, and reading them with errors that name file and line."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import unicodedata
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from kn_sweeps.mistakes import did_you_mean, shortened
from kn_sweeps.records.cache import cache_directory
from kn_sweeps.records.files import user_path, write_atomically
from kn_sweeps.records.hub import fetched

SourceName = Literal["bundled", "hub", "local"]
GITHUB = "https://raw.githubusercontent.com"
EDITING = "editing"
"""A folder that may lie between a data folder and those of benchmarks of editing."""
DATA_FILES = ("README.md", "*.parquet", "*.jsonl", "*.jsonl.gz", "*.json", "*.csv", "*.tsv")
"""What of a data set's repository is fetched: no code."""


@dataclass(frozen=True)
class Source:
    """A resolved source.

    Attributes:
        name: `bundled`, `hub` or `local`.
        root: The folder that holds the files; None for files that are fetched one by one.
        commit: Of the repository that they are from; None for what is in none.
    """

    name: SourceName
    root: Path | None
    commit: str | None = None

    def fingerprint(self, *folders: str, also: Path | None = None) -> str:
        """Twelve hex digits of what is read: names and contents of files, or their commit.

        Args:
            folders: Folders below the root that hold the files; none for the root itself.
            also: A folder outside the root that counts too.
        """
        digest = hashlib.sha256((self.commit or "").encode())
        places = [self.root / name for name in folders or [""]] if self.root else []
        for place in [*places, *([also] if also else [])]:
            for path in sorted(place.glob("*.jsonl")):
                digest.update(
                    f"{place.name}/{path.name}".encode() if folders else path.name.encode()
                )
                digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()[:12]


def resolve_source(
    dataset: str, source: str, root: str | None, commit: Callable[[], str]
) -> Source:
    """Decide where a dataset is read from.

    A root wins. Otherwise `bundled` is the package's own data, and official data (`hub`, `local`)
    is read from `$KN_SWEEPS_DATA/<dataset>`, or `$KN_SWEEPS_DATA/editing/<dataset>`, where that is
    set; `<dataset>_...`, such as `known_1000`, will do.

    Args:
        dataset: The folder's name, such as `blimp`.
        source: `bundled`, `hub` or `local`.
        root: A folder with the official files, or None.
        commit: Tells which commit of the official repository is read, where one is.

    Raises:
        ValueError: If the source is unknown, its folder does not exist, or the commit cannot be
            told.
    """
    if source not in get_args(SourceName):
        raise ValueError(
            f"dataset.source={source!r}; choose from {', '.join(get_args(SourceName))}"
        )
    if root is None and source == "bundled":
        return Source("bundled", Path(str(resources.files("kn_sweeps.data") / "bundled" / dataset)))
    named_by = "dataset.root"
    if root is None and (parent := os.environ.get("KN_SWEEPS_DATA")):
        parents = (user_path(parent), user_path(parent) / EDITING)
        places = [one / dataset for one in parents]
        longer = [place for one in parents for place in sorted(one.glob(f"{dataset}_*"))]
        there = [place for place in (*places, *longer) if place.is_dir()]
        root = str((there or places)[0])
        named_by = "KN_SWEEPS_DATA"
    if root is None:
        if source == "local":
            raise ValueError(
                "dataset.source=local needs dataset.root=DIR, or KN_SWEEPS_DATA=DIR with "
                f"DIR/{dataset}"
            )
        try:
            return Source("hub", None, commit())
        except ValueError as error:
            raise without_hub(error) from error
    folder = user_path(root).absolute()
    if not folder.is_dir():
        raise ValueError(f"{named_by} names the folder {folder}, which does not exist")
    return Source("local", folder)


def source_for(model: str) -> SourceName:
    """Where data come from unless a dataset says otherwise: a tiny model knows the bundled ones.

    Args:
        model: The `_target_` of the model's config.
    """
    return "bundled" if model.endswith(".Bundled") else "hub"


def without_hub(error: ValueError) -> ValueError:
    """Why official data cannot be read from where it is published, and what to do instead."""
    return type(error)(
        f"{error}. Download the official files elsewhere and name their folder with "
        "dataset.root=DIR or KN_SWEEPS_DATA=DIR, or use dataset.source=bundled"
    )


def hub_folder(name: str, source: Source) -> Path:
    """The files of a data set of the hub at the source's commit, fetched if they are not here.

    Raises:
        ValueError: If they cannot be had.
    """
    assert source.commit is not None
    try:
        return fetched(name, source.commit, DATA_FILES, "dataset")
    except ValueError as error:
        raise without_hub(error) from error


def hub_configs(folder: Path) -> tuple[str, ...]:
    """Names of the parts of a data set whose files are here, sorted."""
    import datasets  # slow to import, and needed for the hub only

    return tuple(sorted(datasets.get_dataset_config_names(str(folder))))


def hub_rows(folder: Path, config: str | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a part's split `train`, as its files say; nothing is written beside them."""
    import datasets

    with tempfile.TemporaryDirectory() as scratch:
        yield from datasets.load_dataset(
            str(folder), config, split="train", streaming=True, cache_dir=scratch
        )


@dataclass(frozen=True)
class Table:
    """The entries of a data file.

    Attributes:
        rows: Fields by name. The texts that are required are in Unicode's form NFC and have no
            blanks around them: a tokenizer would read "Paris " as another answer than "Paris".
        notes: What the file has that nobody would expect, and how often.
    """

    rows: list[dict[str, Any]]
    notes: Counter[str]


CLEANED = "texts with blanks around them or not in Unicode's form NFC were cleaned"


def read_jsonl(path: Path, required: Mapping[str, type], known: Collection[str] = ()) -> Table:
    """Read one JSON object a line.

    Args:
        path: The file; UTF-8, with or without a byte order mark.
        required: Keys every object must have, and the type of their values.
        known: Keys it may have besides; of others a note is made.

    Raises:
        ValueError: If the file is missing or unreadable, or a line is malformed; file and line
            are named.
    """
    table = Table([], Counter())
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            row = _row(f"{path}, line {number}", line, required)
            table.rows.append(cleaned(row, required, known, table.notes))
    return table


def cleaned(
    row: Mapping[str, Any], required: Collection[str], known: Collection[str], notes: Counter[str]
) -> dict[str, Any]:
    """A row with its required texts cleaned; see `Table`. What is noticed is counted in `notes`."""
    found = dict(row)
    for key in required:
        if isinstance(found[key], str):
            found[key] = unicodedata.normalize("NFC", found[key]).strip()
            if found[key] != row[key]:
                notes[CLEANED] += 1
    for key in row.keys() - {*required, *known}:
        notes[f"the field {shortened(repr(key))} is not used{did_you_mean(key, required)}"] += 1
    return found


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        near = sorted(p.name for p in path.parent.glob("*.jsonl")) if path.parent.is_dir() else []
        there = f"; the folder has {', '.join(near[:80])}" if near else ""
        raise ValueError(f"missing data file {path}{there}") from None
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        raise ValueError(
            f"{path}, line {line}, byte {column}: {content[error.start : error.start + 1]!r} is no "
            "UTF-8; save the file as UTF-8"
        ) from None


def _row(where: str, line: str, required: Mapping[str, type]) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error.msg}, column {error.colno})") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected an object, got {shortened(repr(row))}")
    missing = [key for key in required if key not in row]
    if missing:
        raise ValueError(
            f"{where}: no {', '.join(map(repr, missing))}; it has "
            f"{shortened(', '.join(map(repr, row)))}"
        )
    for key, kind in required.items():
        if not isinstance(row[key], kind):
            raise ValueError(
                f"{where}: {key!r} should be a {kind.__name__}, got {shortened(repr(row[key]))}"
            )
    return row


def check_names(wanted: Sequence[str], known: Sequence[str], what: str) -> None:
    """Refuse names that do not exist, with the nearest and all valid ones.

    Raises:
        ValueError: If one of `wanted` is not in `known`, or there is none.
    """
    if not wanted:
        raise ValueError(f"no {what} chosen; null means all of {', '.join(known)}")
    for name in wanted:
        if name not in known:
            hint = did_you_mean(str(name), known)
            raise ValueError(f"unknown {what} {name!r}{hint}; choose from {', '.join(known)}")


def downloaded(address: str, name: str) -> Path:
    """A cached copy of a raw file of a GitHub repository.

    Args:
        address: `OWNER/REPOSITORY/COMMIT/PATH`. A mirror that has the same is named by
            KN_SWEEPS_GITHUB.
        name: What the copy is called.

    Raises:
        ValueError: If it is not cached and cannot be fetched.
    """
    path = cache_directory("data") / name
    if path.is_file():
        return path
    url = f"{os.environ.get('KN_SWEEPS_GITHUB', GITHUB)}/{address}"
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            content = response.read()
    except (urllib.error.URLError, OSError) as error:
        raise without_hub(ValueError(f"could not fetch {url} ({error})")) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda at: at.write_bytes(content))
    return path
