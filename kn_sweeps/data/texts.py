"""Running text: the project's own sentences, local files, or a dataset of the hub."""

from __future__ import annotations

import itertools
import json
import logging
import random
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from kn_sweeps.data.sentences import bundled_pairs, fact_sentences
from kn_sweeps.records.cache import cache_directory
from kn_sweeps.records.files import user_path
from kn_sweeps.records.hashing import digests
from kn_sweeps.records.hub import commit_of

log = logging.getLogger(__name__)

_NAME = re.compile(r"(?P<repository>[^:@]+)(:(?P<config>[^@]+))?(@(?P<revision>.+))?")


def texts_of(name: str, count: int | None = None) -> Iterator[str]:
    """Texts one after the other, always in the same order; blank ones are left out.

    Args:
        name: `bundled`; a text file, or a folder of `.txt` files, with one text a line; or a hub
            dataset, `NAME`, `NAME:CONFIG` or with a branch, tag or commit `NAME:CONFIG@REVISION`,
            whose split `train` has a column `text`.
        count: How many; None for all. Of a hub's dataset as many are kept on this machine.

    Raises:
        ValueError: If it cannot be read.
    """
    if name == "bundled":
        texts = iter(_bundled())
    elif (files := _local(name)) is not None:
        texts = _lines(files)
    else:
        texts = _kept(_fetched(name, count))
    return itertools.islice((text for text in texts if text.strip()), count)


def fetch_texts(name: str, count: int | None = None) -> None:
    """Have the texts on this machine, so that they are there without a hub.

    Raises:
        ValueError: If they cannot be had.
    """
    if name != "bundled" and _local(name) is None:
        _fetched(name, count)


def texts_fingerprint(name: str) -> Any:
    """What tells the texts from others of that name: a file's content, a hub's commit."""
    if name == "bundled":
        return []
    if (files := _local(name)) is not None:
        return list(zip((file.name for file in files), digests(files), strict=True))
    return _asked(name).commit


def _local(name: str) -> list[Path] | None:
    """The files of a text file or folder of that name; None where there is none."""
    path = user_path(name)
    if path.is_dir():
        return sorted(path.rglob("*.txt"))
    return [path] if path.is_file() else None


def _bundled() -> list[str]:
    texts = [item.text for item in fact_sentences()] + [pair.good for pair in bundled_pairs()]
    # Mixed, so that the first samples are like the others.
    random.Random("texts").shuffle(texts)
    return texts


def _lines(files: list[Path]) -> Iterator[str]:
    if not files:
        raise ValueError("the text folder has no .txt file")
    for path in files:
        try:
            with path.open(encoding="utf-8") as file:
                yield from (line.rstrip("\n") for line in file)
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"cannot read the text file {path}: {error}") from error


class _Asked(NamedTuple):
    """Texts of the hub: a repository, one of its parts, and the commit that is read."""

    repository: str
    config: str | None
    commit: str


def _asked(name: str) -> _Asked:
    found = _NAME.fullmatch(name)
    if found is None:
        raise ValueError(
            f"text source {name!r}: expected NAME, NAME:CONFIG or NAME:CONFIG@REVISION"
        )
    try:
        commit = commit_of(found["repository"], found["revision"], "dataset")
    except ValueError as error:
        raise type(error)(
            f"text source {name!r} is neither `bundled`, nor a text file or folder; asked as a "
            f"dataset of the hub: {error}"
        ) from error
    return _Asked(found["repository"], found["config"], commit)


def _fetched(name: str, count: int | None) -> Path:
    """A file with the first `count` texts of a hub's dataset, or more, one a line as JSON."""
    asked = _asked(name)
    place = re.sub(r"[^\w.-]+", "--", f"{asked.repository}-{asked.config or ''}")
    folder = cache_directory("data") / "texts" / f"{place}@{asked.commit}"
    for path in folder.glob("*.jsonl"):
        if path.stem == "all" or (count is not None and int(path.stem) >= count):
            return path
    wanted = "all" if count is None else str(count)
    log.info("fetching %s texts of %s", wanted, name)
    path = folder / f"{wanted}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        half = Path(scratch) / path.name
        with half.open("w", encoding="utf-8") as file:
            for text in itertools.islice(filter(str.strip, _streamed(name, asked)), count):
                file.write(json.dumps(text) + "\n")
        half.replace(path)
    return path


def _streamed(name: str, asked: _Asked) -> Iterator[str]:
    """Texts as the hub sends them: of a large dataset no more than is read."""
    import datasets  # slow to import, and needed for the hub only

    try:
        rows = datasets.load_dataset(
            asked.repository, asked.config, split="train", streaming=True, revision=asked.commit
        )
        for row in rows:
            if "text" not in row:
                raise ValueError(f"it has no column 'text'; it has {', '.join(row)}")
            yield str(row["text"])
    except Exception as error:  # whatever a hub that cannot be reached makes the library raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"text source {name!r} could not be read from the hub: {reason}"
        ) from error


def _kept(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
