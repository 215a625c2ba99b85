"""One's own minimal pairs: a table with a grammatical and an ungrammatical sentence a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from kn_sweeps.cases import Case, LMKind
from kn_sweeps.data.base import Loaded, left_out
from kn_sweeps.data.blimp import PairCases, PairOptions
from kn_sweeps.data.facts import OwnFile
from kn_sweeps.data.fields import plain
from kn_sweeps.data.paradigms import Pair, Role
from kn_sweeps.data.tables import Cleaning, Entry, Fault, TableFile, read_table
from kn_sweeps.mistakes import did_you_mean

Part = Literal["good", "bad", "trigger", "source", "role", "term", "unread"]
PARTS: Mapping[Part, tuple[str, ...]] = {
    "good": ("good", "sentence_good", "grammatical", "acceptable", "right"),
    "bad": ("bad", "sentence_bad", "ungrammatical", "unacceptable", "wrong"),
    "trigger": ("trigger", "cue"),
    "source": ("source", "uid", "paradigm"),
    "role": ("role",),
    "term": ("linguistics_term", "phenomenon", "term"),
    "unread": ("id", "pair_id", "pairid", "field", "comment"),
}
"""Names of columns, the first the one to use; `unread` is known and not used."""
_NAMED = {alias: part for part, names in PARTS.items() for alias in names}
ROLES: Mapping[str, Role] = {
    **dict.fromkeys(("edit", "seen", "train"), "edit"),
    **dict.fromkeys(("judge", "held_out", "test"), "judge"),
}


@dataclass(frozen=True, kw_only=True)
class Pairs(OwnFile, PairOptions):
    """Minimal pairs of one's own; each is edited, unless `role` or `seen_share` says otherwise.

    Attributes:
        seen_share: Share of the pairs that are edited and that a method may see; the others, and
            those whose role is `judge`, ask what other sentences do under an edit.
    """

    seen_share: float = 1

    def load(self, kind: LMKind, *, seed: int, limit: int | None, editable: bool) -> Loaded:
        """Make the cases; see `Dataset.load`."""
        table = read_table(self.file())
        columns = _columns(table)
        cleaning = Cleaning()
        for column in table.columns:
            if plain(column) not in _NAMED:
                near = did_you_mean(plain(column), [names[0] for names in PARTS.values()])
                cleaning.notes[f"the column {column!r} is not used{near}"] += 1
        pairs: dict[str, dict[tuple[str, str], Pair]] = {}
        reasons: dict[str, Counter[str]] = {}
        for index, entry in enumerate(table.entries):
            try:
                pair = self._pair(index, entry, columns, cleaning)
            except Fault as fault:
                raise fault.at(table, entry) from None
            known = pairs.setdefault(pair.paradigm, {})
            why = reasons.setdefault(pair.paradigm, Counter())
            if pair.good == pair.bad:
                why["its two sentences are equal"] += 1
            elif known.setdefault((pair.good, pair.bad), pair) is not pair:
                why["listed before"] += 1
        groups = {name: list(known.values()) for name, known in pairs.items()}
        maker = PairCases(self, kind, seed, groups, list(groups))
        cases: list[Case] = []
        reports = []
        for name in groups:
            made, others = maker.cases(name, limit, editable)
            cases += made
            notes = cleaning.notes if name == next(iter(groups)) else None
            reports.append(left_out(name, len(made), reasons[name] + others, notes))
        return Loaded(tuple(cases), tuple(reports), "local")

    def _pair(
        self, index: int, entry: Entry, columns: Mapping[Part, str], cleaning: Cleaning
    ) -> Pair:
        found = {
            part: cleaning.text(entry.values.get(column), column)
            for part, column in columns.items()
        }
        for part in ("good", "bad"):
            if not found[part]:
                raise Fault("there is no sentence", columns[part])
        source = found.get("source") or self.source_name()
        pair = Pair.of(
            found["good"],
            found["bad"],
            index=index,
            paradigm=source,
            term=found.get("term") or source,
        )
        if role := found.get("role"):
            if plain(role) not in ROLES:
                raise Fault("a role is edit or judge", columns["role"], f"got {role!r}")
            pair = replace(pair, role=ROLES[plain(role)])
        if trigger := found.get("trigger"):
            try:
                pair = pair.with_trigger(trigger)
            except ValueError as error:
                raise Fault(str(error), columns["trigger"]) from None
        return pair


def _columns(table: TableFile) -> dict[Part, str]:
    """Which column has each part.

    Raises:
        ValueError: If there is none for a sentence, with the nearest names.
    """
    found: dict[Part, str] = {}
    for column in table.columns:
        part = _NAMED.get(plain(column))
        if part is not None and part != "unread":
            found.setdefault(part, column)
    missing = [part for part in ("good", "bad") if part not in found]
    if missing:
        near = "".join(
            f"; {column!r}{hint}"
            for column in table.columns
            if plain(column) not in _NAMED and (hint := did_you_mean(plain(column), missing))
        )
        raise ValueError(
            f"{table.path}: no column {' and no '.join(map(repr, missing))}; the columns are "
            f"{', '.join(map(repr, table.columns))}{near}"
        )
    return found
