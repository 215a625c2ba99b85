"""Running text: the project's own sentences, local files, or a dataset of the hub."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from kn_sweeps.data.sentences import bundled_pairs, fact_sentences
from kn_sweeps.records.files import user_path


def texts_of(name: str) -> Iterator[str]:
    """Texts one after the other, always in the same order; blank ones are left out.

    Args:
        name: `bundled`; a text file, or a folder of `.txt` files, with one text a line; or a hub
            dataset, `NAME` or `NAME:CONFIG`, whose split `train` has a column `text`.

    Raises:
        ValueError: If it cannot be read.
    """
    path = user_path(name)
    if name == "bundled":
        texts = iter(_bundled())
    elif path.is_dir() or path.is_file():
        texts = _lines(sorted(path.rglob("*.txt")) if path.is_dir() else [path])
    else:
        texts = _from_hub(name)
    return (text for text in texts if text.strip())


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


def _from_hub(name: str) -> Iterator[str]:
    import datasets  # slow to import, and needed for the hub only

    dataset, _, config = name.partition(":")
    try:
        rows = datasets.load_dataset(dataset, config or None, split="train", streaming=True)
        yield from (str(row["text"]) for row in rows)
    except Exception as error:  # whatever a hub that cannot be reached makes the library raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"text source {name!r} is neither `bundled`, nor a text file or folder, nor a dataset "
            f"of the hub that could be read: {reason}"
        ) from error
