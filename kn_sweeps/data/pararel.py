"""ParaRel (Elazar et al. 2021): facts asked in several phrasings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kn_sweeps.cases import (
    RESIDUE,
    REVERSED,
    SAME_RELATION,
    SAME_SUBJECT,
    Case,
    LMKind,
    Probe,
    Query,
)
from kn_sweeps.data.base import Loaded, Official, check_counts, check_share, left_out
from kn_sweeps.data.relations import (
    COMMIT,
    Fact,
    Relation,
    Synonym,
    ask,
    available_relations,
    read_relation,
    read_synonyms,
    synonym_folder,
)
from kn_sweeps.data.sources import check_names
from kn_sweeps.seeding import shuffler

INVERSES = {"P36": "P1376", "P1376": "P36"}
"""Relations whose inverse is a relation too; their one-to-one facts can test symmetry."""


@dataclass(frozen=True, kw_only=True)
class FactOptions:
    """What cases are made of relations' facts.

    Attributes:
        seen_share: Share of a relation's phrasings a method may see; the others judge generality.
        rephrasings: Most held-out phrasings a case.
        neighbours: Most neighbours of each set a case.
        reversals: Most phrasings of each reversal.
        elsewhere: Most facts of every chosen relation, the case's own too, whose answers are
            followed under its edit.
        one_to_one: Use only facts that are one-to-one.
    """

    seen_share: float = 0.5
    rephrasings: int = 4
    neighbours: int = 4
    reversals: int = 2
    elsewhere: int = 0
    one_to_one: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant."""
        check_share(self.seen_share)
        check_counts(
            rephrasings=self.rephrasings,
            neighbours=self.neighbours,
            reversals=self.reversals,
            elsewhere=self.elsewhere,
        )


@dataclass(frozen=True, kw_only=True)
class ParaRel(FactOptions, Official):
    """Facts with paraphrases, neighbours, reversals and synonyms.

    Attributes:
        relations: Which; None for all the source has.
    """

    relations: tuple[str, ...] | None = None

    folder = "pararel"

    def commit(self) -> str:
        """What is published is read at one commit of its repository."""
        if self.revision and not re.fullmatch("[0-9a-f]{40}", self.revision):
            raise ValueError(
                f"dataset.revision={self.revision}: name a commit of ParaRel's repository by its "
                f"40 digits; null for {COMMIT}"
            )
        return self.revision or COMMIT

    def fingerprint(self) -> str:
        """Hash of the files, or of their commit, and of the synonyms."""
        return self.resolved().fingerprint("facts", "patterns", also=synonym_folder())

    def load(self, kind: LMKind, *, seed: int, limit: int | None, editable: bool) -> Loaded:
        """Make the cases; every fact can be edited, so `editable` changes nothing."""
        del editable
        source = self.resolved()
        known = available_relations(source)
        wanted = list(known) if self.relations is None else list(self.relations)
        check_names(wanted, known, "relation")
        library = {name: read_relation(source, name) for name in known}
        tables = read_synonyms()
        cases: list[Case] = []
        reports = []
        for name in wanted:
            maker = FactCases(self, kind, seed, library, library[name], tables, wanted)
            made, reasons = maker.cases(limit)
            cases += made
            reports.append(left_out(name, len(made), reasons, library[name].notes))
        return Loaded(tuple(cases), tuple(reports), source.name)


class FactCases:
    """Makes the cases of one relation; `inverses` names those that are read backwards."""

    def __init__(
        self,
        options: FactOptions,
        kind: LMKind,
        seed: int,
        library: dict[str, Relation],
        relation: Relation,
        tables: dict[str, dict[str, Synonym]],
        wanted: Sequence[str],
        inverses: Mapping[str, str] = INVERSES,
    ) -> None:
        self._wanted = wanted
        self._options = options
        self._kind = kind
        self._seed = seed
        self._library = library
        self._relation = relation
        self._synonyms = tables.get(relation.name, {})
        # An edit should carry over to these: they are no neighbours of the same subject.
        self._related = {relation.name, inverses.get(relation.name, "")}
        for name, table in tables.items():
            targets = {synonym.relation for synonym in table.values()}
            if name == relation.name:
                self._related |= targets
            elif relation.name in targets:
                self._related.add(name)
        self._inverse = library.get(inverses.get(relation.name, ""))
        self._facts = list(relation.facts)
        self._of_index = {fact.index: fact for fact in relation.facts}
        patterns = relation.askable(kind)
        if not patterns:
            raise ValueError(
                f"relation {relation.name} has no pattern that ends with its object, so a causal "
                "LM cannot be asked; use a masked LM or another relation"
            )
        shuffler(seed, "phrasings", relation.name).shuffle(patterns)
        cut = max(1, round(len(patterns) * options.seen_share))
        self._seen, self._held_out = patterns[:cut], patterns[cut:]

    def cases(self, limit: int | None) -> tuple[list[Case], Counter[str]]:
        """The first `limit` facts in the seed's order, and how many others were left out."""
        relation = self._relation
        reasons = Counter({"listed before": relation.repeated})
        facts = list(relation.facts)
        shuffler(self._seed, "facts", relation.name).shuffle(facts)
        if self._options.one_to_one:
            reasons["not one-to-one"] = len(facts) - len(relation.one_to_one)
            facts = [fact for fact in facts if fact.index in relation.one_to_one]
        made: list[Case] = []
        for fact in facts:
            if limit is not None and len(made) == limit:
                reasons["beyond limit"] += 1
            elif (case := self._case(fact)) is None:
                reasons["no other object to replace its own"] += 1
            else:
                made.append(case)
        return made, reasons

    def _case(self, fact: Fact) -> Case | None:
        name = f"{self._relation.name}/{fact.index:04d}"
        candidates = self._new_objects(fact)
        if not candidates:
            return None
        new = shuffler(self._seed, "new object", name).choice(candidates)
        pattern = shuffler(self._seed, "edit prompt", name).choice(self._seen)
        others = [p for p in self._seen if p != pattern]
        edit = Probe(ask(pattern, fact.subject), fact.object, new, "edit")
        probes = [
            *self._rephrasings(name, fact, new),
            *self._neighbours(name, fact, new, pattern),
            *self._same_subject(name, fact),
            *self._reversals(name, fact, new),
            *self._synonym_probes(name, fact, new),
            *self._elsewhere(name, fact),
        ]
        return Case(
            id=name,
            source=self._relation.name,
            task="fact",
            edit=edit,
            seen=tuple(ask(p, fact.subject) for p in [pattern, *others]),
            probes=tuple(probes),
            essence=Query(f"{fact.subject} is a ", "", (0, len(fact.subject))),
        )

    def _new_objects(self, fact: Fact) -> list[str]:
        """Objects the edit may write, in a fixed order.

        Where the criteria need it they are narrowed: a one-to-one fact gets another one-to-one
        object, so that the edited relation can be inverted; a field of work gets one whose
        occupation is known.
        """
        relation = self._relation
        own = relation.objects_of[fact.subject]
        objects = sorted({other.object for other in relation.facts} - own)
        if self._inverse is not None and fact.index in relation.one_to_one:
            invertible = {self._of_index[i].object for i in relation.one_to_one}
            return [obj for obj in objects if obj in invertible] or objects
        if self._synonyms:
            return [obj for obj in objects if obj in self._synonyms] or objects
        return objects

    def _rephrasings(self, name: str, fact: Fact, new: str) -> list[Probe]:
        patterns = list(self._held_out)
        shuffler(self._seed, "rephrasings", name).shuffle(patterns)
        return [
            Probe(ask(p, fact.subject), fact.object, new, "rephrase")
            for p in patterns[: self._options.rephrasings]
        ]

    def _neighbours(self, name: str, fact: Fact, new: str, pattern: str) -> list[Probe]:
        """Other subjects under the edit's own phrasing."""
        draw = shuffler(self._seed, "neighbours", name)
        found: dict[str, Probe] = {}
        # A neighbour whose answer is already `new` could not show damage.
        taken = {fact.object, new}
        for other in draw.sample(self._facts, len(self._facts)):
            if len(found) == self._options.neighbours:
                break
            if other.subject == fact.subject or other.object in taken or other.subject in found:
                continue
            query = ask(pattern, other.subject)
            own = other.object
            found[other.subject] = Probe(query, own, own, "neighbour", SAME_RELATION, rival=new)
        return list(found.values())

    def _same_subject(self, name: str, fact: Fact) -> list[Probe]:
        """The same subject under other relations, except those the edit should carry over to."""
        draw = shuffler(self._seed, "same subject", name)
        probes = []
        for other in self._library.values():
            objects = other.objects_of.get(fact.subject, frozenset())
            patterns = other.askable(self._kind)
            if other.name in self._related or len(objects) != 1 or not patterns:
                continue
            (obj,) = objects
            query = ask(draw.choice(patterns), fact.subject)
            probes.append(Probe(query, obj, obj, "neighbour", SAME_SUBJECT))
        draw.shuffle(probes)
        return probes[: self._options.neighbours]

    def _elsewhere(self, name: str, fact: Fact) -> list[Probe]:
        """Facts of every chosen relation, of other subjects."""
        draw = shuffler(self._seed, "elsewhere", name)
        probes = []
        for other in self._wanted:
            relation = self._library[other]
            patterns = relation.askable(self._kind)
            pool = [one for one in relation.facts if one.subject != fact.subject]
            for one in draw.sample(pool, min(self._options.elsewhere, len(pool))):
                query = ask(draw.choice(patterns), one.subject)
                probes.append(Probe(query, one.object, one.object, "elsewhere", other))
        return probes

    def _reversals(self, name: str, fact: Fact, new: str) -> list[Probe]:
        """After s -> o*: does "o* r^-1" answer s, and does "o r^-1" still?"""
        relation, inverse = self._relation, self._inverse
        if inverse is None or fact.index not in relation.one_to_one:
            return []
        former = [self._of_index[i] for i in relation.one_to_one]
        owner = next((other.subject for other in former if other.object == new), None)
        patterns = inverse.askable(self._kind)
        shuffler(self._seed, "reversals", name).shuffle(patterns)
        probes = []
        for pattern in patterns[: self._options.reversals]:
            if owner is not None:
                query = ask(pattern, new)
                probes.append(Probe(query, owner, fact.subject, "reversal", REVERSED))
            query = ask(pattern, fact.object)
            probes.append(Probe(query, fact.subject, fact.subject, "reversal", RESIDUE))
        return probes

    def _synonym_probes(self, name: str, fact: Fact, new: str) -> list[Probe]:
        """Does the new object's synonym follow under the synonym's relation?"""
        old_word, new_word = self._synonyms.get(fact.object), self._synonyms.get(new)
        if old_word is None or new_word is None or old_word.word == new_word.word:
            return []
        other = self._library.get(new_word.relation)
        patterns = other.askable(self._kind) if other is not None else []
        shuffler(self._seed, "synonyms", name).shuffle(patterns)
        return [
            Probe(ask(pattern, fact.subject), old_word.word, new_word.word, "synonym")
            for pattern in patterns[: self._options.reversals]
        ]
