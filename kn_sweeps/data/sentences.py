"""The data that ship with the package, as sentences: every fact in every pattern, every pair."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

BUNDLED = Path(__file__).parent / "bundled"


@dataclass(frozen=True)
class FactSentence:
    """One fact in one pattern.

    Attributes:
        relation: The relation's id, such as "P36".
        pattern: The pattern, with [X] and [Y].
        subject: What [X] stands for.
        answer: What [Y] stands for.
        fact: Number of the fact in its relation's file, from 0.
        wording: Number of the pattern in its relation's file, from 0.
    """

    relation: str
    pattern: str
    subject: str
    answer: str
    fact: int
    wording: int

    @property
    def prefix(self) -> str:
        """The text before the answer."""
        return self.pattern.partition("[Y]")[0].replace("[X]", self.subject)

    @property
    def suffix(self) -> str:
        """The text after the answer."""
        return self.pattern.partition("[Y]")[2].replace("[X]", self.subject)

    @property
    def text(self) -> str:
        """The sentence."""
        return self.prefix + self.answer + self.suffix

    @property
    def causal(self) -> bool:
        """Whether a causal LM can be asked: nothing but punctuation follows the answer."""
        return bool(re.fullmatch(r"\W*", self.suffix)) and self.subject in self.prefix


@dataclass(frozen=True)
class BundledPair:
    """A minimal pair that ships with the package.

    Attributes:
        paradigm: BLiMP's UID.
        good: The good sentence.
        bad: The bad sentence.
        one_prefix: Whether BLiMP's one-prefix method is valid.
        number: Its `pairID`.
    """

    paradigm: str
    good: str
    bad: str
    one_prefix: bool
    number: int

    @property
    def words(self) -> tuple[int, str, str]:
        """Index among the blank-separated words of the one that differs; the good and the bad word.

        Neither word includes the full stop.
        """
        good, bad = self.good.rstrip(".").split(), self.bad.rstrip(".").split()
        index = next(i for i, (a, b) in enumerate(zip(good, bad, strict=True)) if a != b)
        return index, good[index], bad[index]

    @property
    def prefix(self) -> str:
        """The words before the one that differs."""
        index, _, _ = self.words
        return " ".join(self.good.split()[:index])


@lru_cache
def fact_sentences() -> tuple[FactSentence, ...]:
    """Every bundled fact in every pattern of its relation, in the order of the files."""
    found = []
    for path in sorted((BUNDLED / "pararel" / "facts").glob("P*.jsonl")):
        patterns = _rows(BUNDLED / "pararel" / "patterns" / path.name)
        for i, fact in enumerate(_rows(path)):
            for j, pattern in enumerate(patterns):
                found.append(
                    FactSentence(
                        path.stem, pattern["pattern"], fact["sub_label"], fact["obj_label"], i, j
                    )
                )
    return tuple(found)


@lru_cache
def bundled_pairs() -> tuple[BundledPair, ...]:
    """Every bundled minimal pair, in the order of the files."""
    return tuple(
        BundledPair(
            row["UID"],
            row["sentence_good"],
            row["sentence_bad"],
            bool(row["one_prefix_method"]),
            int(row["pairID"]),
        )
        for path in sorted((BUNDLED / "blimp").glob("*.jsonl"))
        for row in _rows(path)
    )


def _rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
