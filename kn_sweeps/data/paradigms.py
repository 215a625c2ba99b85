"""BLiMP's files: paradigms and their minimal pairs."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from kn_sweeps.cases import LMKind, Query
from kn_sweeps.data.base import Official
from kn_sweeps.data.sources import (
    Source,
    Table,
    cleaned,
    hub_configs,
    hub_folder,
    hub_rows,
    read_jsonl,
)
from kn_sweeps.data.triggers import find_trigger
from kn_sweeps.records.hub import commit_of

HUB_NAME = "nyu-mll/blimp"
_TOKEN = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")
_KEYS = {
    **dict.fromkeys(("sentence_good", "sentence_bad", "linguistics_term", "UID"), str),
    **dict.fromkeys(("simple_LM_method", "one_prefix_method", "two_prefix_method"), bool),
}
Role = Literal["", "edit", "judge"]
_UNREAD = (
    *("field", "lexically_identical", "pairID", "pair_id", "dependency_length", "crucial_item"),
    *("one_prefix_prefix", "one_prefix_word_good", "one_prefix_word_bad", "two_prefix_word"),
    *("two_prefix_prefix_good", "two_prefix_prefix_bad"),
)
"""What BLiMP's files have besides, and nothing here reads."""


@dataclass(frozen=True)
class Pair:
    """A minimal pair and its critical region: where, in words, its sentences differ.

    Attributes:
        index: Number in its paradigm's file, from 0.
        good: The grammatical sentence.
        bad: The other.
        term: The phenomenon, BLiMP's `linguistics_term`.
        paradigm: BLiMP's UID.
        one_prefix: Whether what stands before the critical word decides which form is right.
        prefix: Text before the critical region.
        old: The region in the grammatical sentence; empty where words were only added.
        new: The region in the other.
        suffix: Text after it.
        word: Characters [start, end) of the trigger in `prefix + suffix`, where it is told; None
            for what the paradigm's rule finds.
        role: What it is for: `edit`, `judge`, or empty for what is drawn.
    """

    index: int
    good: str
    bad: str
    term: str
    paradigm: str
    one_prefix: bool
    prefix: str
    old: str
    new: str
    suffix: str
    word: tuple[int, int] | None = None
    role: Role = ""

    @cached_property
    def query(self) -> Query:
        """The sentence with the critical region as its slot and the trigger as its subject."""
        if self.word is not None:
            return Query(self.prefix, self.suffix, self.word)
        word = find_trigger(self.paradigm, self.prefix, self.old, self.suffix)
        return Query(self.prefix, self.suffix, None if word is None else (word.start, word.end))

    def with_trigger(self, trigger: str) -> Pair:
        """The same pair, with a word of the sentence as its trigger.

        Raises:
            ValueError: If it does not stand once around the critical region.
        """
        whole = self.prefix + self.suffix
        places = [m.span() for m in re.finditer(rf"(?<!\w){re.escape(trigger)}(?!\w)", whole)]
        if len(places) != 1:
            raise ValueError(
                f"trigger={trigger!r} stands {len(places)} times around the words by which "
                f"{self.good!r} and {self.bad!r} differ; name a word that stands there once"
            )
        return replace(self, word=places[0])

    @property
    def trigger(self) -> str:
        """The trigger in lower case."""
        return self.query.subject_text.lower()

    @classmethod
    def of(
        cls,
        good: str,
        bad: str,
        *,
        index: int = 0,
        term: str = "",
        paradigm: str = "",
        one_prefix: bool = True,
    ) -> Pair:
        """Two sentences, with the words by which they differ found."""
        left = list(_TOKEN.finditer(good))
        right = list(_TOKEN.finditer(bad))
        shortest = min(len(left), len(right))
        first = next((i for i in range(shortest) if left[i][0] != right[i][0]), shortest)
        last = next(
            (i for i in range(shortest - first) if left[-1 - i][0] != right[-1 - i][0]),
            shortest - first,
        )
        old = _between(good, left[first : len(left) - last])
        new = _between(bad, right[first : len(right) - last])
        start = left[first].start() if first < len(left) else len(good)
        return cls(
            index=index,
            good=good,
            bad=bad,
            term=term,
            paradigm=paradigm,
            one_prefix=one_prefix,
            prefix=good[:start],
            old=old,
            new=new,
            suffix=good[start + len(old) :],
        )

    def why_not(self, kind: LMKind) -> str | None:
        """Why this kind of LM cannot be asked for the critical word; None if it can."""
        if not self.old or not self.new:
            return "the sentences do not differ by an exchange of words"
        if kind == "causal":
            if not self.one_prefix:
                return "a causal LM reads the critical word before what decides it"
            return None if self.prefix.strip() else "nothing stands before the critical word"
        if len(_TOKEN.findall(self.old)) > 1 or len(_TOKEN.findall(self.new)) > 1:
            return "the critical region is more than one word"
        return None


@dataclass(frozen=True)
class Paradigm:
    """One paradigm's pairs.

    Attributes:
        pairs: Each once; the sentences of a pair differ.
        left_out: How many others there are, by reason.
        notes: What else its file has; see `LeftOut`.
    """

    pairs: list[Pair]
    left_out: Counter[str]
    notes: Counter[str]


@dataclass(frozen=True, kw_only=True)
class BlimpFiles(Official):
    """BLiMP's files: one `PARADIGM.jsonl` a paradigm, or the hub's data set."""

    folder = "blimp"

    def commit(self) -> str:
        """The hub's commit."""
        return commit_of(HUB_NAME, self.revision, "dataset")


def available_paradigms(source: Source) -> tuple[str, ...]:
    """Names of the paradigms a source has.

    Raises:
        ValueError: If a local folder has none, or the hub cannot be reached.
    """
    if source.root is not None:
        names = tuple(sorted(path.stem for path in source.root.glob("*.jsonl")))
        if not names:
            raise ValueError(f"{source.root} has no paradigm; expected PARADIGM.jsonl files")
        return names
    return hub_configs(hub_folder(HUB_NAME, source))


def read_paradigm(source: Source, name: str) -> Paradigm:
    """Read one paradigm.

    Raises:
        ValueError: If its file is missing, malformed or has no pair that can be used.
    """
    if source.root is not None:
        path = source.root / f"{name}.jsonl"
        table = read_jsonl(path, _KEYS, _UNREAD)
        for number, row in enumerate(table.rows, start=1):
            if row["UID"] != name:
                raise ValueError(f"{path}, entry {number}: its UID is {row['UID']!r}, not {name!r}")
    else:
        table = Table([], Counter())
        for row in hub_rows(hub_folder(HUB_NAME, source), name):
            table.rows.append(cleaned(row, _KEYS, _UNREAD, table.notes))
    pairs: dict[tuple[str, str], Pair] = {}
    reasons: Counter[str] = Counter()
    for index, row in enumerate(table.rows):
        pair = _pair(index, row)
        if pair.good == pair.bad:
            reasons["its two sentences are equal"] += 1
        elif pairs.setdefault((pair.good, pair.bad), pair) is not pair:
            reasons["listed before"] += 1
    if not pairs:
        why = f": {reasons}" if reasons else ""
        raise ValueError(f"paradigm {name} has no pairs that can be used{why}")
    return Paradigm(list(pairs.values()), reasons, table.notes)


def _pair(index: int, row: dict[str, Any]) -> Pair:
    return Pair.of(
        row["sentence_good"],
        row["sentence_bad"],
        index=index,
        term=row["linguistics_term"],
        paradigm=row["UID"],
        one_prefix=bool(row["one_prefix_method"]),
    )


def _between(text: str, tokens: list[re.Match[str]]) -> str:
    return text[tokens[0].start() : tokens[-1].end()] if tokens else ""
