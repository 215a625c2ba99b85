"""From the rows of a file to cases, with a word on every row that is not used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from kn_sweeps.cases import Case, LeftOut, LMKind
from kn_sweeps.data.base import check_counts, left_out
from kn_sweeps.data.records import Most, Record, Sorted, case_of
from kn_sweeps.data.tables import Entry, Fault, TableFile
from kn_sweeps.seeding import shuffler

Read = Callable[[Entry], list[Record]]
"""A row's records: one, or several that are in effect together. Raises Fault where it has none."""
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How many questions of each kind a case has at most; None for all there are.

    Attributes:
        rephrasings: Rephrased questions.
        neighbours: Neighbours.
        portability: Consequences.
        reversals: Reversed questions, and as many about synonyms.
        continuations: Texts that the model continues.
    """

    usual_answer_tokens: ClassVar[int | None] = 24
    """Papers that edit such facts compare answers."""

    rephrasings: int | None = None
    neighbours: int | None = None
    portability: int | None = None
    reversals: int | None = None
    continuations: int | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant."""
        names = ("rephrasings", "neighbours", "portability", "reversals", "continuations")
        check_counts(**{name: getattr(self, name) or 0 for name in names})

    def most(self, *, strict: bool) -> Most:
        """The same by kind of question."""
        return Most(
            {
                "rephrase": self.rephrasings,
                "neighbour": self.neighbours,
                "portability": self.portability,
                "reversal": self.reversals,
                "synonym": self.reversals,
                "continuation": self.continuations,
            },
            strict,
        )


@dataclass
class Gathered:
    """One file's records, in its order.

    Attributes:
        source: What the file is called.
        sorted: The records that are used, and why others are not.
        notes: What was noticed.
    """

    source: str
    sorted: Sorted = field(default_factory=Sorted)
    notes: Counter[str] = field(default_factory=Counter)

    def read(self, table: TableFile, read: Read, *, strict: bool, known: Sorted) -> None:
        """Read a file.

        Args:
            table: Its rows.
            read: What makes records of one.
            strict: Refuse a row that cannot be used; else it is counted.
            known: The records of all files together, of which each is used once.

        Raises:
            ValueError: With file, row and column.
        """
        before = len(known.conflicts)
        earlier = Counter(known.reasons)
        for number, entry in enumerate(table.entries):
            try:
                records = read(entry)
            except Fault as fault:
                if strict and fault.reason not in EXPECTED:
                    raise fault.at(table, entry) from None
                self.sorted.reasons[fault.reason] += 1
                continue
            used = len(known.used)
            known.add(number, f"{table.path.name}, {entry.where}", records)
            self.sorted.used += known.used[used:]
        self.sorted.reasons += known.reasons - earlier
        if len(known.conflicts) > before:
            self._note_conflicts(known.conflicts[before:])

    def cases(
        self, table: TableFile, kind: LMKind, *, seed: int, limit: int | None, most: Most
    ) -> tuple[list[Case], LeftOut]:
        """The cases of the first `limit` rows in the seed's order.

        Raises:
            ValueError: If a text does not say where its subject or answer stands.
        """
        rows = list(self.sorted.used)
        shuffler(seed, "facts", self.source).shuffle(rows)
        reasons = Counter(self.sorted.reasons)
        made: list[Case] = []
        used = 0
        for number, records in rows:
            if limit is not None and used == limit:
                reasons["beyond limit"] += 1
                continue
            name = f"{self.source}/{number:05d}"
            several = len(records) > 1
            try:
                some = [
                    case_of(record, name + f".{n}" * several, self.source, kind, most, self.notes)
                    for n, record in enumerate(records)
                ]
            except Fault as fault:
                if most.strict:
                    raise fault.at(table, table.entries[number]) from None
                reasons[fault.reason] += 1
                continue
            made += some
            used += 1
        return made, left_out(self.source, used, reasons, self.notes)

    def _note_conflicts(self, found: list[tuple[str, str]]) -> None:
        pairs = "; ".join(f"{one} and {other}" for one, other in found[:_SHOWN])
        more = "; ..." * (len(found) > _SHOWN)
        self.notes[
            f"two new answers for one question, of which the first is used ({pairs}{more})"
        ] += len(found)


EXPECTED = ("its new answer is its old one",)
"""Faults that leave a row out, also of one's own file."""
