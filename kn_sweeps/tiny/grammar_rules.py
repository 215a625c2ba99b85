"""Contrasts, and the rules that put one into a random sentence."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

from kn_sweeps.tiny import grammar_words as words


@dataclass(frozen=True)
class Combo:
    """What a pair contrasts.

    Attributes:
        trigger: The word that fixes the form.
        good: The form that it asks for.
        bad: The wrong form.
        plural: Whether the good sentence has a plural here.
        complement: What may follow, where a finite verb differs (`grammar_words.Finite`).
    """

    trigger: str
    good: str
    bad: str
    plural: bool = False
    complement: str = ""


@dataclass(frozen=True)
class Pair:
    """Two sentences that differ in one word.

    Attributes:
        before: words before the word that differs.
        combo: the forms that differ, and their trigger.
        after: words after it, without the full stop.
        clause: number of words of a relative clause; 0 where there is none.
    """

    before: str
    combo: Combo
    after: str = ""
    clause: int = 0

    def sentence(self, *, good: bool = True) -> str:
        """The good or the bad sentence."""
        form = self.combo.good if good else self.combo.bad
        return " ".join(part for part in (self.before, form, self.after) if part) + "."

    @property
    def good(self) -> str:
        """The good sentence."""
        return self.sentence()

    def prefix(self, *, good: bool = True) -> str:
        """The words up to a trigger that follows the differing word: BLiMP's two-prefix method."""
        rest = self.after.split()
        form = self.combo.good if good else self.combo.bad
        return " ".join([*self.before.split(), form, *rest[: rest.index(self.combo.trigger)]])

    @property
    def critical_span(self) -> tuple[int, int]:
        """Characters [start, end) of the differing word in the good sentence."""
        start = len(self.before) + 1
        return start, start + len(self.combo.good)

    @property
    def trigger_span(self) -> tuple[int, int]:
        """Characters [start, end) of the trigger in the good sentence."""
        positions = []
        offset = 0
        for word in self.good[:-1].split():
            if word == self.combo.trigger:
                positions.append(offset)
            offset += len(word) + 1
        # The first of equal words: a name may come back as an object ("Alice ... Alice").
        return positions[0], positions[0] + len(self.combo.trigger)


# The last argument asks for a distractor that differs in number from what it distracts from.
Rule = Callable[[Combo, random.Random, bool], Pair]


def _verb_phrase(verbs: Sequence[words.Verb], rng: random.Random) -> str:
    verb = rng.choice(verbs)
    modal = rng.choice(("", *words.MODALS))
    return f"{modal} {verb.base}" if modal else verb.past


def _name_and_verb(rng: random.Random) -> str:
    return f"{rng.choice(words.NAMES)} {_verb_phrase(words.PERCEPTION, rng)}"


def noun_after_determiner(*, adjective: bool) -> Rule:
    """Rule of "Alice saw these books": the noun differs."""

    def rule(combo: Combo, rng: random.Random, _: bool) -> Pair:
        middle = f" {rng.choice(words.THING_ADJECTIVES)}" if adjective else ""
        return Pair(f"{_name_and_verb(rng)} {combo.trigger}{middle}", combo)

    return rule


def determiner_before_noun(*, adjective: bool) -> Rule:
    """Rule of "Alice saw these books": the determiner differs."""

    def rule(combo: Combo, rng: random.Random, _: bool) -> Pair:
        middle = f"{rng.choice(words.THING_ADJECTIVES)} " if adjective else ""
        return Pair(_name_and_verb(rng), combo, f"{middle}{combo.trigger}")

    return rule


def _complement(kind: str, rng: random.Random) -> str:
    """What may follow a finite verb, whatever its number."""
    place = f"in the {rng.choice(words.PLACES)}"
    match kind:
        case "state":
            return rng.choice((place, rng.choice(words.PERSON_ADJECTIVES)))
        case "place":
            return rng.choice((place, f"with {rng.choice(words.NAMES)}"))
        case "participle":
            return f"{rng.choice(words.PARTICIPLES)} {rng.choice(words.NAMES)}"
        case _:
            return f"{rng.choice(words.SOCIAL).base} {rng.choice(words.NAMES)}"


def _article(rng: random.Random) -> str:
    """An opening that fits both numbers, so that the noun alone decides."""
    return rng.choice(("The", f"The {rng.choice(words.PERSON_ADJECTIVES)}"))


def verb_after_subject(combo: Combo, rng: random.Random, _: bool) -> Pair:
    """The pilots are tired: the verb differs."""
    return Pair(f"{_article(rng)} {combo.trigger}", combo, _complement(combo.complement, rng))


def subject_before_verb(combo: Combo, rng: random.Random, _: bool) -> Pair:
    """The pilots are tired: the subject differs."""
    return Pair(_article(rng), combo, f"{combo.trigger} {_complement(combo.complement, rng)}")


def verb_after_relational_noun(combo: Combo, rng: random.Random, misleading: bool) -> Pair:
    """The sister of the pilots is tired: the verb differs."""
    distractor = rng.choice(words.PEOPLE).form(plural=combo.plural != misleading)
    return Pair(
        f"{_article(rng)} {combo.trigger} of the {distractor}",
        combo,
        _complement(combo.complement, rng),
    )


def verb_after_relative_clause(combo: Combo, rng: random.Random, misleading: bool) -> Pair:
    """The pilot who met the sisters is tired: the verb differs."""
    distractor = rng.choice(words.RELATIVES).form(plural=combo.plural != misleading)
    # Past tense: the verb inside the clause must not give the number of the head away.
    clause = f"{rng.choice(('who', 'that'))} {rng.choice(words.SOCIAL).past} the {distractor}"
    before = f"{_article(rng)} {combo.trigger} {clause}"
    return Pair(before, combo, _complement(combo.complement, rng), clause=len(clause.split()))


def reflexive_after_name(combo: Combo, rng: random.Random, _: bool) -> Pair:
    """Alice saw herself: the reflexive differs in gender."""
    return Pair(f"{combo.trigger} {_verb_phrase(words.REFLEXIVE, rng)}", combo)


def reflexive_after_noun(combo: Combo, rng: random.Random, _: bool) -> Pair:
    """These queens saw themselves: the reflexive differs in number."""
    opening = rng.choice(("The", "These", "Those") if combo.plural else ("The", "This", "That"))
    return Pair(f"{opening} {combo.trigger} {_verb_phrase(words.REFLEXIVE, rng)}", combo)


def noun_combos(nouns: Sequence[words.Noun], *, noun_differs: bool) -> tuple[Combo, ...]:
    """Demonstrative x noun x number; the noun or else the demonstrative differs."""
    combos = []
    for noun, determiners, plural in product(nouns, words.DEMONSTRATIVES, (False, True)):
        right, wrong = determiners[plural], determiners[not plural]
        form = noun.form(plural=plural)
        if noun_differs:
            combos.append(Combo(right, form, noun.form(plural=not plural), plural))
        else:
            combos.append(Combo(form, right, wrong, plural))
    return tuple(combos)


def verb_combos(
    nouns: Sequence[words.Noun], *, verb_differs: bool, shift: int | None = None
) -> tuple[Combo, ...]:
    """Noun x number x finite verb; with ``shift``, two finite verbs for each noun, in rotation."""
    combos = []
    for index, noun in enumerate(nouns):
        finites: Sequence[words.Finite] = words.FINITES
        if shift is not None:
            first = (index + shift) % len(finites)
            finites = (finites[first], finites[(first + 3) % len(finites)])
        for finite, plural in product(finites, (False, True)):
            subject, other = noun.form(plural=plural), noun.form(plural=not plural)
            verb, wrong = finite.form(plural=plural), finite.form(plural=not plural)
            forms = (subject, verb, wrong) if verb_differs else (verb, subject, other)
            combos.append(Combo(*forms, plural, finite.complement))
    return tuple(combos)


def gender_combos() -> tuple[Combo, ...]:
    """Name x reflexive of its gender, against the other gender's."""
    return tuple(
        Combo(name, good, bad)
        for names, good, bad in (
            (words.FEMALE_NAMES, "herself", "himself"),
            (words.MALE_NAMES, "himself", "herself"),
        )
        for name in names
    )


def number_combos() -> tuple[Combo, ...]:
    """Gendered noun x number; the bad form is the other number's."""
    combos = []
    for noun, reflexive in words.GENDERED:
        combos.append(Combo(noun.singular, reflexive, "themselves"))
        combos.append(Combo(noun.plural, "themselves", reflexive, plural=True))
    return tuple(combos)
