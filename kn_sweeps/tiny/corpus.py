"""What the tiny models read: facts put into patterns, random grammatical sentences, and the split.

**The split.** A (fact, pattern) combination is withheld from training when
``(fact_index + pattern_index) % 6 == 5``, both counted from 0 in file order: every fact is seen in
about five sixths of its patterns and every pattern with five sixths of its facts. The files of P36
and P1376 list the same facts and mirrored patterns in the same order, so a sentence that both
relations can form is withheld from both. Of the bundled minimal pairs, those with an odd ``pairID``
are withheld: the sampler never returns one of their good sentences, whichever paradigm forms it.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from kn_sweeps.data.sentences import BundledPair, FactSentence, bundled_pairs, fact_sentences
from kn_sweeps.tiny.grammar import PARADIGMS

HOLD_OUT_EVERY = 6

Span = tuple[int, int]


@dataclass(frozen=True)
class Sentence:
    """A training sentence.

    Attributes:
        text: The sentence.
        answer: Characters [start, end) that a question about it asks for: a fact's object, or the
            word in which the sentences of a minimal pair differ.
        clue: Characters [start, end) of what decides the answer: the subject, or the trigger.
    """

    text: str
    answer: Span
    clue: Span


def is_held_out(item: FactSentence | BundledPair) -> bool:
    """Whether a fact in this pattern, or a pair's good sentence, is withheld from training."""
    if isinstance(item, FactSentence):
        return (item.fact + item.wording) % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1
    return item.number % 2 == 1


def training_sentence(item: FactSentence) -> Sentence:
    """A fact's sentence with the spans of its object and its subject."""
    start = len(item.prefix)
    end = start + len(item.answer)
    before = item.pattern.index("[X]") < item.pattern.index("[Y]")
    clue = item.pattern.index("[X]") if before else end + item.suffix.index(item.subject)
    return Sentence(item.text, (start, end), (clue, clue + len(item.subject)))


@lru_cache
def held_out_texts() -> frozenset[str]:
    """Every sentence that training must not contain."""
    facts = {item.text for item in fact_sentences() if is_held_out(item)}
    return frozenset(facts | {pair.good for pair in bundled_pairs() if is_held_out(pair)})


def training_facts() -> list[Sentence]:
    """The fact sentences of training, each once per relation that forms it."""
    return [
        training_sentence(item) for item in fact_sentences() if item.text not in held_out_texts()
    ]


def random_sentence(rng: random.Random) -> Sentence:
    """A random grammatical sentence that is not held out."""
    while True:
        pair = rng.choice(PARADIGMS).sample(rng)
        if pair.good not in held_out_texts():
            return Sentence(pair.good, pair.critical_span, pair.trigger_span)


def training_sentences(seed: int, fact_share: float = 0.7) -> Iterator[Sentence]:
    """Training sentences without end.

    Args:
        seed: Of the random choices.
        fact_share: Share of fact sentences, in [0, 1]; they come in shuffled rounds, so that every
            one is read equally often.
    """
    rng = random.Random(f"corpus/{seed}")
    facts = training_facts()
    position = len(facts)
    while True:
        if rng.random() >= fact_share:
            yield random_sentence(rng)
            continue
        if position == len(facts):
            rng.shuffle(facts)
            position = 0
        yield facts[position]
        position += 1


def all_texts() -> Iterator[str]:
    """Texts that together hold every word of the vocabulary: bundled data and the whole grammar."""
    yield from (item.text for item in fact_sentences())
    for pair in bundled_pairs():
        yield pair.good
        yield pair.bad
    # The grammar's words are few: a long sample has all of them, and a fixed seed the same ones.
    rng = random.Random("vocabulary")
    for _ in range(20_000):
        yield random_sentence(rng).text
