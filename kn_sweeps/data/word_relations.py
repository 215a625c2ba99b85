"""Relations of Hernandez et al. (2024), and the pairs of words of Todd et al. (2024)."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kn_sweeps.cases import Case, LMKind
from kn_sweeps.data.base import Loaded, left_out
from kn_sweeps.data.benchmarks import Published, joined
from kn_sweeps.data.pararel import FactCases, FactOptions
from kn_sweeps.data.relations import Fact, Relation, Synonym
from kn_sweeps.data.tables import Cleaning, read_json, read_table
from kn_sweeps.mistakes import shortened

INVERSES: Mapping[str, tuple[str, ...]] = {
    "adj_antonym": ("The opposite of {} is",),
    "adj_comparative": ("{} is the comparative form of",),
    "adj_superlative": ("{} is the superlative form of",),
    "company_ceo": ("{} is the CEO of", "{} leads the company"),
    "company_hq": ("{} is the city of the headquarters of",),
    "country_capital_city": ("{} is the capital of", "{} is the capital city of"),
    "country_currency": ("The {} is the official currency of",),
    "country_largest_city": ("{} is the largest city in", "{} is the biggest city in"),
    "person_band_lead_singer": ("The lead singer of {} is",),
    "person_father": ("{} is the father of", "{} has a child named"),
    "person_mother": ("{} is the mother of", "{} has a child named"),
    "pokemon_evolutions": ("{} evolves from a",),
    "superhero_archnemesis": ("The superhero archnemesis of {} is",),
    "superhero_person": ("{} is the secret identity of",),
    "verb_past_tense": ("{} is the past tense of",),
    "country-capital": ("{} is the capital of", "{} is the capital city of"),
    "singular-plural": ("{} is the plural of",),
    "present-past": ("{} is the past tense of",),
    "antonym": ("The opposite of {} is",),
}
"""How relations that are one-to-one in part are read backwards, by the names of their files."""
PAIRED: Mapping[str, tuple[str, ...]] = {
    "antonym": ("The opposite of {} is", "The antonym of {} is"),
    "country-capital": ("The capital of {} is", "{}'s capital city is"),
    "country-currency": ("The currency of {} is", "{}'s currency is"),
    "landmark-country": ("{} is in the country of", "{} is located in"),
    "park-country": ("{} is in the country of", "{} is located in"),
    "person-instrument": ("{} plays the", "The instrument of {} is the"),
    "person-occupation": ("{} works as a", "By profession, {} is a"),
    "person-sport": ("{} plays the sport of", "The sport of {} is"),
    "present-past": ("The past tense of {} is", "In the past tense, {} becomes"),
    "product-company": ("{} is a product of", "{} was created by"),
    "singular-plural": ("The plural of {} is", "In the plural, {} becomes"),
    "synonym": ("A synonym of {} is", "{} means the same as"),
}
"""How pairs of words are asked, which are published without templates."""
SYNONYM, OF_SYNONYM = "synonym", "another synonym"
_OF_SYNONYM = ("Another word for {} is", "Instead of {} one can say")
_AS_PUBLISHED = ("Q: {}\nA:",)
_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")
ESCAPES = "texts with escaped characters were decoded"
NO_TEMPLATE = "no template is known, so pairs are asked as `Q: ...` and `A:`"


@dataclass(frozen=True, kw_only=True)
class Relations(FactOptions, Published):
    """Relations with templates and samples, or pairs of words, made into cases as ParaRel's are.

    New answers are other objects of the relation. One-to-one facts of relations that can be read
    backwards test symmetry; synonyms of words test synonymy.
    """

    folder = "relations"

    def load(self, kind: LMKind, *, seed: int, limit: int | None, editable: bool) -> Loaded:
        """Make the cases; every fact can be edited, so `editable` changes nothing."""
        del editable
        source = self.resolved()
        relations = {
            name: read_samples(name, paths) for name, paths in self.read_from(source).items()
        }
        inverses = {name: f"{name}, read backwards" for name in relations if name in INVERSES}
        library = {
            **relations,
            **{back: _inverse(relations[name], back) for name, back in inverses.items()},
        }
        tables = {}
        if SYNONYM in relations:
            library[OF_SYNONYM] = Relation(OF_SYNONYM, _patterns(_OF_SYNONYM), ())
            tables[SYNONYM] = _synonyms(relations[SYNONYM])
        cases: list[Case] = []
        reports = []
        for name, relation in relations.items():
            maker = FactCases(
                self, kind, seed, library, relation, tables, list(relations), inverses
            )
            made, reasons = maker.cases(limit)
            cases += made
            reports.append(left_out(name, len(made), reasons, relation.notes))
        return Loaded(tuple(cases), tuple(reports), source.name)


def read_samples(name: str, paths: Sequence[Path]) -> Relation:
    """A file with `prompt_templates` and `samples`, or a table of `input` and `output`.

    Raises:
        ValueError: If it has another layout; the file and the entry are named.
    """
    whole = read_json(paths[0]) if paths[0].suffix == ".json" else None
    cleaning = Cleaning()
    if isinstance(whole, Mapping):
        templates = [*_listed(whole, "prompt_templates"), *_listed(whole, "prompt_templates_zs")]
        samples, keys = _listed(whole, "samples"), ("subject", "object")
    else:
        templates = list(PAIRED.get(name, _AS_PUBLISHED))
        cleaning.notes[NO_TEMPLATE] += name not in PAIRED
        samples = [entry.values for entry in joined([read_table(one) for one in paths]).entries]
        keys = ("input", "output")
    wrong = [one for one in templates if not isinstance(one, str) or one.count("{}") != 1]
    if wrong:
        raise ValueError(f"{paths[0]}: a template has one {{}}, got {wrong[0]!r}")
    if not templates or not samples:
        raise ValueError(
            f"{paths[0]}: expected `prompt_templates` and `samples` with `subject` and `object`; "
            "or a list of `input` and `output`"
        )
    facts: dict[tuple[str, str], Fact] = {}
    for index, sample in enumerate(samples):
        try:
            subject, thing = (_decoded(sample[key], key, cleaning) for key in keys)
        except (KeyError, TypeError):
            raise ValueError(
                f"{paths[0]}, sample {index + 1}: expected {keys[0]!r} and {keys[1]!r}, got "
                + shortened(repr(sample))
            ) from None
        if subject and thing:
            facts.setdefault((subject, thing), Fact(index, subject, thing))
    if not facts:
        raise ValueError(f"{paths[0]} has no sample with both {keys[0]!r} and {keys[1]!r}")
    return Relation(
        name,
        _patterns(templates),
        tuple(facts.values()),
        repeated=len(samples) - len(facts),
        notes=cleaning.notes,
    )


def _listed(whole: Mapping[str, Any], key: str) -> list[Any]:
    found = whole.get(key) or []
    return list(found) if isinstance(found, list) else [found]


def _decoded(value: Any, key: str, cleaning: Cleaning) -> str:
    text = cleaning.text(value[0] if isinstance(value, list) else value, key)
    found = _ESCAPED.sub(lambda one: chr(int(one[1], 16)), text)
    cleaning.notes[ESCAPES] += found != text
    return found


def _patterns(templates: Sequence[str]) -> tuple[str, ...]:
    """Templates as ParaRel writes them: the object follows, and a full stop."""
    return tuple(dict.fromkeys(f"{one.replace('{}', '[X]')} [Y]." for one in templates))


def _inverse(relation: Relation, name: str) -> Relation:
    """A relation from objects to subjects."""
    facts = tuple(Fact(one.index, one.object, one.subject) for one in relation.facts)
    patterns = _patterns(INVERSES[relation.name])
    return Relation(name, patterns, facts)


def _synonyms(relation: Relation) -> dict[str, Synonym]:
    """Word to another word that means the same, of those that some pair has as its second."""
    also: dict[str, Counter[str]] = defaultdict(Counter)
    for fact in relation.facts:
        also[fact.object][fact.subject] += 1
        also[fact.subject][fact.object] += 1
    return {
        fact.object: Synonym(min(others), OF_SYNONYM)
        for fact in relation.facts
        if (others := set(also[fact.object]) - {fact.subject})
    }
