"""ParaRel's files: relations with their patterns and facts, and tables of synonyms."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path

from kn_sweeps.cases import LMKind, Query
from kn_sweeps.data.sources import Source, downloaded, read_jsonl

COMMIT = "845c42a218d9d26ae9d2cc9ba2ba780741c4e57e"
"""Of the repository that ParaRel is published in, whose files have not changed since."""
_REPOSITORY = "yanaiela/pararel"
_RAW_FOLDERS = {"patterns": "data/pattern_data/graphs_json", "facts": "data/trex_lms_vocab"}
RELATIONS = (
    *("P1001", "P101", "P103", "P106", "P108", "P127", "P1303", "P131", "P136", "P1376", "P138"),
    *("P140", "P1412", "P159", "P17", "P176", "P178", "P19", "P190", "P20", "P264", "P27", "P276"),
    *("P279", "P30", "P36", "P361", "P364", "P37", "P39", "P407", "P413", "P449", "P463", "P47"),
    *("P495", "P530", "P740", "P937"),
)
_SUBJECT, _OBJECT = "[X]", "[Y]"
_PATTERN_FIELDS = ("lemma", "extended_lemma", "tense")
_FACT_FIELDS = ("uuid", "sub_uri", "obj_uri", "predicate_id")
"""What ParaRel's files have besides, and nothing here reads."""


@dataclass(frozen=True)
class Fact:
    """A subject, its object, and its number in the relation's file."""

    index: int
    subject: str
    object: str


@dataclass(frozen=True)
class Relation:
    """One relation: how it is asked and what is known.

    Attributes:
        name: Such as P36.
        patterns: How it is asked.
        facts: Each once.
        repeated: How many facts were listed before, and are not there again.
        notes: What else its files have; see `LeftOut`.
    """

    name: str
    patterns: tuple[str, ...]
    facts: tuple[Fact, ...]
    repeated: int = 0
    notes: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def one_to_one(self) -> frozenset[int]:
        """Indices of facts whose subject has one object and whose object has one subject."""
        pairs = {(fact.subject, fact.object) for fact in self.facts}
        subjects = Counter(subject for subject, _ in pairs)
        objects = Counter(obj for _, obj in pairs)
        return frozenset(
            f.index for f in self.facts if subjects[f.subject] == 1 and objects[f.object] == 1
        )

    @cached_property
    def objects_of(self) -> dict[str, frozenset[str]]:
        """Subject to all its objects."""
        found: dict[str, set[str]] = defaultdict(set)
        for fact in self.facts:
            found[fact.subject].add(fact.object)
        return {subject: frozenset(objects) for subject, objects in found.items()}

    def askable(self, kind: LMKind) -> list[str]:
        """Patterns that ask for the object: for a causal LM, those that end with it.

        Of patterns that differ only in what is not read, or in blanks, one is kept.
        """
        if kind == "masked":
            return list({re.sub(r"\s", "", pattern): pattern for pattern in self.patterns}.values())
        ending = [pattern for pattern in self.patterns if _ends_with_object(pattern)]
        return list({pattern.split(_OBJECT)[0]: pattern for pattern in ending}.values())


@dataclass(frozen=True)
class Synonym:
    """What an object is called under another relation: field of work to occupation."""

    word: str
    relation: str


def ask(pattern: str, subject: str) -> Query:
    """The query that asks `pattern` for its object.

    Args:
        pattern: Text with one [X] and one [Y].
        subject: What stands for [X].
    """
    before, after = pattern.split(_OBJECT)
    if _SUBJECT in before:
        start = before.index(_SUBJECT)
        prefix, suffix = before.replace(_SUBJECT, subject), after
    else:
        start = len(before) + after.index(_SUBJECT)
        prefix, suffix = before, after.replace(_SUBJECT, subject)
    return Query(prefix, suffix, (start, start + len(subject)))


def available_relations(source: Source) -> tuple[str, ...]:
    """Names of the relations a source has facts and patterns for.

    Raises:
        ValueError: If a local folder has none.
    """
    if source.root is None:
        return RELATIONS
    names = {path.stem for path in (source.root / "facts").glob("P*.jsonl")}
    names &= {path.stem for path in (source.root / "patterns").glob("P*.jsonl")}
    if not names:
        raise ValueError(
            f"{source.root} has no relation; expected {source.root}/patterns/P36.jsonl, "
            f"{source.root}/facts/P36.jsonl and so on"
        )
    return tuple(sorted(names, key=lambda name: int(re.sub(r"\D", "", name) or 0)))


def read_relation(source: Source, name: str) -> Relation:
    """Read one relation.

    Raises:
        ValueError: If a file is missing or malformed, or there is no pattern or fact.
    """
    paths = {part: _path(source, part, name) for part in ("patterns", "facts")}
    asked = read_jsonl(paths["patterns"], {"pattern": str}, _PATTERN_FIELDS)
    patterns = [row["pattern"] for row in asked.rows]
    for number, pattern in enumerate(patterns, start=1):
        if pattern.count(_SUBJECT) != 1 or pattern.count(_OBJECT) != 1:
            raise ValueError(
                f"{paths['patterns']}, entry {number}: a pattern has one [X] and one [Y], "
                f"got {pattern!r}"
            )
    known = read_jsonl(paths["facts"], {"sub_label": str, "obj_label": str}, _FACT_FIELDS)
    for part, found in (("patterns", patterns), ("facts", known.rows)):
        if not found:
            raise ValueError(f"relation {name} has no {part}: {paths[part]} is empty")
    facts: dict[tuple[str, str], Fact] = {}
    for index, row in enumerate(known.rows):
        labels = (row["sub_label"], row["obj_label"])
        if not all(labels):
            raise ValueError(f"{paths['facts']}, entry {index + 1}: an empty label in {row!r}")
        facts.setdefault(labels, Fact(index, *labels))
    return Relation(
        name,
        tuple(dict.fromkeys(patterns)),
        tuple(facts.values()),
        repeated=len(known.rows) - len(facts),
        notes=asked.notes + known.notes,
    )


def read_synonyms() -> dict[str, dict[str, Synonym]]:
    """Relation to object to synonym. The tables ship with the package and serve every source."""
    return {
        path.stem: {
            row["object"]: Synonym(row["synonym"], row["relation"])
            for row in read_jsonl(path, {"object": str, "synonym": str, "relation": str}).rows
        }
        for path in sorted(synonym_folder().glob("*.jsonl"))
    }


def synonym_folder() -> Path:
    """Where the tables are."""
    return Path(str(resources.files("kn_sweeps.data") / "bundled" / "pararel" / "synonyms"))


def _path(source: Source, part: str, name: str) -> Path:
    if source.root is not None:
        return source.root / part / f"{name}.jsonl"
    return downloaded(
        f"{_REPOSITORY}/{source.commit}/{_RAW_FOLDERS[part]}/{name}.jsonl",
        f"pararel/{source.commit}/{part}/{name}.jsonl",
    )


def _ends_with_object(pattern: str) -> bool:
    before, after = pattern.split(_OBJECT)
    return _SUBJECT in before and not re.search(r"\w", after)
