"""What every data set of facts comes to: records of edits and their questions, made into cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from kn_sweeps.cases import REVERSED, Case, LMKind, Probe, ProbeKind, Query
from kn_sweeps.data.questions import PLACE, UnclearError, about, asked, asked_about
from kn_sweeps.data.tables import Fault

Texts = tuple[str, ...]
"""An answer and other wordings of it; empty where nobody says."""

OTHERS = "others"
"""The set of a neighbour that names none."""
NO_SUBJECT = "has no subject that is found in its prompt, which methods that edit there need"
UNREAD = "texts go on behind the answer, which a causal LM does not read"


@dataclass(frozen=True)
class Asked:
    """A question that judges an edit.

    Attributes:
        kind: What it tests.
        text: With `{}` for the subject, or not, and `___` for the answer, or not.
        answers: What a perfect edit gives.
        before: What is given before; a neighbour's is `answers`.
        group: The named set it belongs to.
        column: What it was called where it is from, for messages.
    """

    kind: ProbeKind
    text: str
    answers: Texts = ()
    before: Texts = ()
    group: str = ""
    column: str = ""


@dataclass(frozen=True)
class Record:
    """An edit and its questions, as some file has them.

    Attributes:
        prompt: How the fact is asked, with `{}` for the subject, or not.
        subject: Empty where nobody says.
        new: What the edit writes.
        old: What is right before; empty where nobody says.
        questions: What judges the edit.
        seen: Other wordings of the prompt that a method may see.
        together: Records that share it are in effect together; empty for none.
    """

    prompt: str
    subject: str
    new: Texts
    old: Texts = ()
    questions: tuple[Asked, ...] = ()
    seen: Texts = ()
    together: str = ""

    @property
    def question(self) -> str:
        """What is asked, for telling records apart."""
        return " ".join(self.prompt.replace(PLACE, self.subject).split())


@dataclass(frozen=True)
class Most:
    """How many questions of each kind a case has at most; None for all.

    Attributes:
        strict: Whether a subject that is not found makes a record unusable.
    """

    of_kind: Mapping[ProbeKind, int | None]
    strict: bool = False


def check_changes(record: Record) -> None:
    """Refuse a record that changes nothing or says nothing.

    Raises:
        Fault: With the column.
    """
    if not record.prompt:
        raise Fault("there is no prompt", "prompt")
    if not record.new:
        raise Fault("there is no new answer", "new")
    if set(record.new) & set(record.old):
        raise Fault("its new answer is its old one", "new", record.new[0])


def case_of(
    record: Record, name: str, source: str, kind: LMKind, most: Most, notes: Counter[str]
) -> Case:
    """A record as a case.

    Args:
        record: What the file says.
        name: The case's id.
        source: Where it is from.
        kind: Who is asked.
        most: How many questions of each kind.
        notes: Where what is noticed is counted.

    Raises:
        Fault: If a text does not say where its answer or its subject stands.
    """
    query = _edited(record, most.strict, notes)
    old, new = record.old, record.new
    edit = Probe(query, _first(old), new[0], "edit", old_aliases=old[1:], new_aliases=new[1:])
    probes = []
    taken: Counter[ProbeKind] = Counter()
    for one in record.questions:
        limit = most.of_kind.get(one.kind)
        if limit is not None and taken[one.kind] >= limit:
            continue
        taken[one.kind] += 1
        probes.append(_probe(one, record, notes, kind))
    seen = [_read(asked_about, text, record.subject, "seen") for text in record.seen]
    _note_unread(query, kind, notes)
    subject = query.subject_text
    return Case(
        id=name,
        source=source,
        task="fact",
        edit=edit,
        seen=tuple(dict.fromkeys([query, *seen])),
        probes=tuple(probes),
        essence=Query(f"{subject} is a ", "", (0, len(subject))) if subject else None,
        together=record.together,
    )


def _edited(record: Record, strict: bool, notes: Counter[str]) -> Query:
    """The edit's query, with its subject where there is one."""
    if not record.subject:
        notes[NO_SUBJECT] += 1
        return _read(asked_about, record.prompt, "", "prompt")
    try:
        return about(record.prompt, record.subject)
    except UnclearError as error:
        if strict:
            raise Fault(str(error), "prompt") from None
    notes[NO_SUBJECT] += 1
    return _read(lambda text, _: asked(text), record.question, "", "prompt")


def _probe(one: Asked, record: Record, notes: Counter[str], kind: LMKind) -> Probe:
    query = _read(asked_about, one.text, record.subject, one.column or one.kind)
    if one.kind != "continuation":
        _note_unread(query, kind, notes)
    made = Probe(query, "", "", one.kind, one.group)
    if one.kind == "continuation":
        return made
    if one.kind == "rephrase":
        old, new = record.old, record.new
    elif one.kind == "neighbour":
        old = new = one.answers
        rival = record.new[0] if record.new[0] not in one.answers else ""
        made = replace(made, group=one.group or OTHERS, rival=rival)
    else:
        old, new = one.before, one.answers
        if not new:
            raise Fault(f"a question of kind {one.kind} needs its answer", one.column)
    return replace(made, old=_first(old), new=_first(new), old_aliases=old[1:], new_aliases=new[1:])


def reversal(text: str, subject: str, column: str = "") -> Asked:
    """The question that asks, of the new answer, what should then be the subject."""
    return Asked("reversal", text, (subject,), group=REVERSED, column=column)


class _Reader(Protocol):
    def __call__(self, text: str, subject: str, /) -> Query: ...


def _read(how: _Reader, text: str, subject: str, column: str) -> Query:
    try:
        return how(text, subject)
    except UnclearError as error:
        raise Fault(str(error), column) from None


def _note_unread(query: Query, kind: LMKind, notes: Counter[str]) -> None:
    if kind == "causal" and any(map(str.isalnum, query.suffix)):
        notes[UNREAD] += 1


def _first(texts: Sequence[str]) -> str:
    return texts[0] if texts else ""


@dataclass
class Sorted:
    """Records sorted into those that are used and why others are not.

    Attributes:
        used: Groups of records that go together, each with the number of its row, from 0.
        reasons: Why others are not used, and how many.
        conflicts: Rows with another new answer for a question of an earlier one, as people call
            them, the earlier first.
    """

    used: list[tuple[int, list[Record]]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    conflicts: list[tuple[str, str]] = field(default_factory=list)
    _known: dict[Texts, tuple[str, list[Texts]]] = field(default_factory=dict)

    def add(self, row: int, where: str, records: list[Record]) -> None:
        """Use the records of a row, unless an earlier one asks the same.

        Args:
            row: Its number.
            where: What people call it, among all rows that are read.
            records: Its records.
        """
        key = tuple(record.question for record in records)
        new = [record.new for record in records]
        if key not in self._known:
            self._known[key] = (where, new)
            self.used.append((row, records))
            return
        earlier, theirs = self._known[key]
        if theirs == new:
            self.reasons["listed before"] += 1
        else:
            self.reasons["another new answer for a question listed before (a conflict)"] += 1
            self.conflicts.append((earlier, where))
