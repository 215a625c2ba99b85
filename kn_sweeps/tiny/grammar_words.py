"""Words of the bundled grammar: a small closed vocabulary that tiny models can learn whole."""

from typing import NamedTuple


class Noun(NamedTuple):
    """A count noun."""

    singular: str
    plural: str

    def form(self, *, plural: bool) -> str:
        """The singular or the plural form."""
        return self.plural if plural else self.singular


class Verb(NamedTuple):
    """A transitive verb; a particle ("looked at") belongs to every form."""

    base: str
    past: str


class Finite(NamedTuple):
    """A finite verb or auxiliary that shows number, and the kind of complement it takes."""

    singular: str
    plural: str
    complement: str

    def form(self, *, plural: bool) -> str:
        """The form that agrees with a singular or a plural subject."""
        return self.plural if plural else self.singular


class GenderedNoun(NamedTuple):
    """A noun whose singular fixes the gender of a reflexive."""

    noun: Noun
    reflexive: str


def _regular(words: str) -> tuple[Noun, ...]:
    return tuple(Noun(word, word + "s") for word in words.split())


def _pairs(words: str) -> tuple[Noun, ...]:
    return tuple(Noun(*pair.split("/")) for pair in words.split())


def _verbs(words: str) -> tuple[Verb, ...]:
    return tuple(
        Verb(*(form.replace("_", " ") for form in pair.split("/"))) for pair in words.split()
    )


FEMALE_NAMES = ("Alice", "Clara", "Diana", "Emma", "Julia", "Laura", "Nina", "Susan")
MALE_NAMES = ("Aaron", "Brian", "Ethan", "Felix", "Jacob", "Lucas", "Nathan", "Simon")
NAMES = FEMALE_NAMES + MALE_NAMES

THINGS = _regular("book lamp chair table picture bottle letter basket blanket ladder mirror button")
IRREGULAR_NOUNS = _pairs(
    "child/children man/men woman/women person/people mouse/mice goose/geese "
    "wolf/wolves tooth/teeth foot/feet leaf/leaves knife/knives cactus/cacti"
)
PEOPLE = _regular(
    "student teacher doctor farmer singer painter driver nurse guest neighbor pilot dancer"
)
IRREGULAR_PEOPLE = _pairs(
    "child/children man/men woman/women person/people mouse/mice goose/geese "
    "wolf/wolves ox/oxen wife/wives policeman/policemen fireman/firemen fisherman/fishermen"
)
RELATIVES = _regular(
    "sister brother friend cousin niece nephew partner rival colleague manager lawyer tutor"
)
GENDERED = tuple(
    GenderedNoun(noun, reflexive)
    for reflexive, words in (
        ("himself", "boy/boys king/kings actor/actors waiter/waiters uncle/uncles man/men"),
        (
            "herself",
            "girl/girls queen/queens actress/actresses waitress/waitresses aunt/aunts woman/women",
        ),
    )
    for noun in _pairs(words)
)

THING_ADJECTIVES = ("red", "blue", "small", "large", "heavy", "broken", "strange", "beautiful")
PERSON_ADJECTIVES = ("young", "old", "tall", "happy", "quiet", "famous", "clever", "tired")
PLACES = ("garden", "kitchen", "museum", "street", "harbor", "village", "market", "station")
MODALS = ("can", "will", "should", "might", "didn't")

# Verbs that go with any object, so that random sentences stay sensible.
PERCEPTION = _verbs(
    "see/saw find/found notice/noticed remember/remembered describe/described touch/touched "
    "draw/drew forget/forgot admire/admired look_at/looked_at "
    "think_about/thought_about point_at/pointed_at"
)
SOCIAL = _verbs(
    "help/helped meet/met thank/thanked visit/visited greet/greeted call/called "
    "trust/trusted know/knew"
)
REFLEXIVE = _verbs(
    "admire/admired blame/blamed help/helped hurt/hurt see/saw draw/drew describe/described "
    "trust/trusted respect/respected remember/remembered defend/defended teach/taught "
    "question/questioned criticize/criticized look_at/looked_at think_about/thought_about"
)

FINITES = (
    Finite("is", "are", "state"),
    Finite("has", "have", "participle"),
    Finite("doesn't", "don't", "base"),
    Finite("walks", "walk", "place"),
    Finite("was", "were", "state"),
    Finite("works", "work", "place"),
)
PARTICIPLES = ("helped", "met", "thanked", "visited", "greeted", "called", "trusted", "known")
# (singular, plural) demonstratives
DEMONSTRATIVES = (("this", "these"), ("that", "those"))
