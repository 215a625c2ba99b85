"""The vocabulary every part of the framework shares: queries, probes and cases.

Plain frozen values. They know nothing of models, files or Hydra.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from kn_sweeps.showing.sheets import Sheet, Shown

ProbeKind = Literal[
    "edit",
    "rephrase",
    "neighbour",
    "reversal",
    "synonym",
    "portability",
    "sentence",
    "continuation",
    "elsewhere",
]
Task = Literal["fact", "syntax"]
Intent = Literal["replace", "erase"]
LMKind = Literal["causal", "masked"]

SAME_RELATION = "same_relation"
SAME_SUBJECT = "same_subject"
SAME_PARADIGM = "same_paradigm"
OTHER_PHENOMENON = "other_phenomenon"
REVERSED = "reversed"
RESIDUE = "residue"

Component = Literal["state", "mlp", "attention"]
COMPONENTS: tuple[Component, ...] = get_args(Component)
"""What causal tracing restores: a block's output, or a window of outputs of MLPs or attentions."""

BEFORE = "before the subject"
FIRST = "subject, first token"
MIDDLE = "subject, middle tokens"
LAST = "subject, last token"
AFTER = "after the subject"
READ = "where the answer is read"
LAST_READ = "subject, last token, read there"
ROLES = (BEFORE, FIRST, MIDDLE, LAST, AFTER, READ, LAST_READ)
"""What a token is to the fact or rule, for causal tracing; a subject of one token is its last."""


@dataclass(frozen=True)
class Query:
    """Text with exactly one answer slot.

    Attributes:
        prefix: Text before the slot, exactly as written, with the blank that precedes the answer.
        suffix: Text after the slot, exactly as written. A causal LM never reads it.
        subject: Character span [start, end) of the subject (for syntax: the trigger) in
            `prefix + suffix`; it lies wholly on one side of the slot. None where there is none.
    """

    prefix: str
    suffix: str = ""
    subject: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Refuse a span that is empty, out of range or crosses the slot."""
        if self.subject is None:
            return
        start, end = self.subject
        slot = len(self.prefix)
        inside = 0 <= start < end <= slot + len(self.suffix)
        if not inside or start < slot < end:
            raise ValueError(
                f"the subject span [{start}, {end}) must lie wholly before or wholly after the "
                f"answer slot of {self.text!r}"
            )

    @property
    def subject_text(self) -> str:
        """The subject as it stands in the text; empty where the query has none."""
        if self.subject is None:
            return ""
        return (self.prefix + self.suffix)[slice(*self.subject)]

    @property
    def text(self) -> str:
        """The query with its slot shown as `___`, for messages and tables."""
        return f"{self.prefix}___{self.suffix}"

    def after(self, context: str) -> Query:
        """The same query with `context` in front of it."""
        shift = len(context)
        span = None if self.subject is None else (self.subject[0] + shift, self.subject[1] + shift)
        return Query(context + self.prefix, self.suffix, span)

    def about(self, subject: str) -> Query:
        """The same query with another subject; at the text's beginning it has a capital.

        Raises:
            ValueError: If the query has none.
        """
        if self.subject is None:
            raise ValueError(f"{self.text!r} has no subject that another could take the place of")
        start, end = self.subject
        written = subject if start else subject[:1].upper() + subject[1:]
        span = (start, start + len(written))
        slot = len(self.prefix)
        if start < slot:
            return Query(self.prefix[:start] + written + self.prefix[end:], self.suffix, span)
        suffix = self.suffix[: start - slot] + written + self.suffix[end - slot :]
        return Query(self.prefix, suffix, span)


@dataclass(frozen=True)
class Probe:
    """One question that judges an edit.

    Attributes:
        query: What is asked.
        old: The answer before the edit; for syntax, the grammatical form. Empty where nobody says:
            then it is the unedited model's own, see `evaluation.own_answers`.
        new: The answer a perfect edit would give. For a fact's neighbour it equals `old`; for a
            minimal pair it is the ungrammatical form, also in a neighbour, whose preference
            between the two must not change.
        kind: What the probe tests. `portability` is what should follow from the edit: a hop
            further, an alias, a relation of the new answer. A `sentence` probe has an empty query
            and whole sentences as answers: it compares a minimal pair as the BLiMP benchmark does.
            A `continuation` has no answers: the model goes on from its query, and what it writes
            is kept. One `elsewhere` judges nothing: it follows what the edit does to another word
            or another source.
        group: The named set it belongs to: a neighbour's set, a reversal's direction, the kind of
            a consequence, the source or the number of one elsewhere.
        old_aliases: Other wordings of `old`, as right as it where a free answer is judged.
        new_aliases: Those of `new`.
        rival: The new answer of the edit, where the probe asks for another one: what a neighbour
            is drawn to. Empty for none.
        old_given: Whether the data say `old`; False where it is the unedited model's own.
    """

    query: Query
    old: str
    new: str
    kind: ProbeKind
    group: str = ""
    old_aliases: tuple[str, ...] = ()
    new_aliases: tuple[str, ...] = ()
    rival: str = ""
    old_given: bool = True


@dataclass(frozen=True, repr=False)
class Case(Shown):
    """One intended change and the probes that judge it.

    Attributes:
        id: Unique within a data source and stable under its file order.
        source: The relation or paradigm it was made from.
        task: Whether answers are compared by greedy decoding (`fact`) or preference (`syntax`).
        edit: The change itself: kind `edit`. None where the model cannot be asked for the
            critical word, so that only whole sentences are compared.
        seen: Queries with answer `edit.old` that a method may use to locate or optimise.
        probes: Questions no method has seen.
        essence: Text about the subject whose continuation an edit should keep ("France is a"),
            as a query; None for syntax.
        seen_answers: The answers of `seen`, where they are not all `edit.old`; then all cases of
            the source are one rule, which is located as one.
        together: Cases that share it, where it is not empty, are in effect together whatever the
            regime: what they should entail follows from all of them.
        fellows: The changes of all cases of its source, its own too, in their order; empty where
            nobody said which cases those are (`with_fellows`). A method may see them.
    """

    id: str
    source: str
    task: Task
    edit: Probe | None
    seen: tuple[Query, ...] = ()
    probes: tuple[Probe, ...] = ()
    essence: Query | None = None
    seen_answers: tuple[str, ...] = ()
    together: str = ""
    fellows: tuple[Probe, ...] = field(default=(), compare=False)

    @property
    def all_probes(self) -> tuple[Probe, ...]:
        """The edit probe, where there is one, followed by the others."""
        return ((self.edit,) if self.edit is not None else ()) + self.probes

    def sheet(self) -> Sheet:
        """Its questions with their answers."""
        lines = [
            (
                probe.kind + f" ({probe.group})" * bool(probe.group),
                probe.query.text if probe.kind != "sentence" else "",
                probe.old,
                probe.new,
            )
            for probe in self.all_probes
        ]
        return Sheet(f"{self.task} {self.id}", lines, ("asked", "text", "old", "new"))


def edit_probe(case: Case) -> Probe:
    """The case's intended change.

    Raises:
        ValueError: If it has none, because the model cannot be asked for its critical word.
    """
    if case.edit is None:
        raise ValueError(
            f"case {case.id} cannot be edited on this kind of model; use method=none to score it"
        )
    return case.edit


def with_fellows(cases: Iterable[Case]) -> list[Case]:
    """The same cases, each told the changes of those of its source.

    What a method compares a case with is then the same whichever cases it is planned with.
    """
    cases = list(cases)
    by_source: dict[str, list[Probe]] = {case.source: [] for case in cases}
    for case in cases:
        if case.edit is not None:
            by_source[case.source].append(case.edit)
    fellows = {source: tuple(some) for source, some in by_source.items()}
    return [replace(case, fellows=fellows[case.source]) for case in cases]


@dataclass(frozen=True)
class LeftOut:
    """How many items of a source cannot be used, by reason, so that nothing is dropped silently.

    Attributes:
        source: The relation or paradigm.
        used: How many items are used.
        reasons: Why others are not, and how many.
        notes: What else the source's files have that a reader may not expect, and how often:
            texts that were cleaned, fields that nothing reads.
    """

    source: str
    used: int
    reasons: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        """One log line."""
        parts = [f"{n} left out: {reason}" for reason, n in sorted(self.reasons.items())]
        return f"{self.source}: {self.used} used" + (f"; {', '.join(parts)}" if parts else "")

    @property
    def noted(self) -> str:
        """The notes in one line; empty where there are none."""
        return "; ".join(f"{note} ({n} times)" for note, n in sorted(self.notes.items()))
