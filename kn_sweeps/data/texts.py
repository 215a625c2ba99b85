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
from typing import Any

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
    path = user_path(name)
    if name == "bundled":
        texts = iter(_bundled())
    elif path.is_dir() or path.is_file():
        texts = _lines(sorted(path.rglob("*.txt")) if path.is_dir() else [path])
    else:
        texts = _kept(_fetched(name, count))
    return itertools.islice((text for text in texts if text.strip()), count)


def fetch_texts(name: str, count: int | None = None) -> None:
    """Have the texts on this machine, so that they are there without a hub.

    Raises:
        ValueError: If they cannot be had.
    """
    path = user_path(name)
    if name != "bundled" and not path.is_dir() and not path.is_file():
        _fetched(name, count)


def texts_fingerprint(name: str) -> Any:
    """What tells the texts from others of that name: a file's content, a hub's commit."""
    path = user_path(name)
    if path.is_dir() or path.is_file():
        read = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
        return list(zip((file.name for file in read), digests(read), strict=True))
    return [] if name == "bundled" else _commit(name)


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


def _commit(name: str) -> str:
    found = _NAME.fullmatch(name)
    if found is None:
        raise ValueError(
            f"text source {name!r}: expected NAME, NAME:CONFIG or NAME:CONFIG@REVISION"
        )
    try:
        return commit_of(found["repository"], found["revision"], "dataset")
    except ValueError as error:
        raise type(error)(
            f"text source {name!r} is neither `bundled`, nor a text file or folder; asked as a "
            f"dataset of the hub: {error}"
        ) from error


def _fetched(name: str, count: int | None) -> Path:
    """A file with the first `count` texts of a hub's dataset, one a line as JSON."""
    commit = _commit(name)
    found = _NAME.fullmatch(name)
    assert found is not None
    place = re.sub(r"[^\w.-]+", "--", f"{found['repository']}-{found['config'] or ''}")
    folder = cache_directory("data") / "texts" / f"{place}@{commit}"
    kept = {path.stem: path for path in folder.glob("*.jsonl")}
    enough = [
        path
        for n, path in kept.items()
        if n == "all" or (count is not None and n.isdigit() and int(n) >= count)
    ]
    if enough:
        return enough[0]
    log.info("fetching %s texts of %s", "all" if count is None else count, name)
    path = folder / f"{'all' if count is None else count}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = _streamed(name, found["repository"], found["config"], commit)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        half = Path(scratch) / path.name
        with half.open("w", encoding="utf-8") as file:
            for text in itertools.islice(filter(str.strip, rows), count):
                file.write(json.dumps(text) + "\n")
        half.replace(path)
    return path


def _streamed(name: str, repository: str, config: str | None, commit: str) -> Iterator[str]:
    """Texts as the hub sends them: of a large dataset no more than is read."""
    import datasets  # slow to import, and needed for the hub only

    try:
        rows = datasets.load_dataset(
            repository, config, split="train", streaming=True, revision=commit
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
