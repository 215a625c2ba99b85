"""What the tiny models read: facts put into patterns, random grammatical sentences, and the split.

**The split.** A (fact, pattern) combination is withheld from training when
``(fact_index + pattern_index) % 6 == 5``, both counted from 0 in file order: every fact is seen in
about five sixths of its patterns and every pattern with five sixths of its facts. The files of P36
and P1376 list the same facts and mirrored patterns in the same order, so a sentence that both
relations can form is withheld from both. Of the bundled minimal pairs, those with an odd ``pairID``
are withheld: the sampler never returns one of their good sentences, whichever paradigm forms it.
"""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from kn_sweeps.tiny.grammar import PARADIGMS

BUNDLED = Path(__file__).parents[1] / "data" / "bundled"
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


@dataclass(frozen=True)
class FactSentence:
    """One fact in one pattern.

    Attributes:
        relation: The relation's id, such as "P36".
        pattern: The pattern, with [X] and [Y].
        subject: What [X] stands for.
        answer: What [Y] stands for.
        held_out: Whether it is withheld from training.
    """

    relation: str
    pattern: str
    subject: str
    answer: str
    held_out: bool

    @property
    def prefix(self) -> str:
        """The text before the answer."""
        return self.pattern.partition("[Y]")[0].replace("[X]", self.subject)

    @property
    def suffix(self) -> str:
        """The text after the answer."""
        return self.pattern.partition("[Y]")[2].replace("[X]", self.subject)

    @property
    def text(self) -> str:
        """The sentence."""
        return self.prefix + self.answer + self.suffix

    @property
    def causal(self) -> bool:
        """Whether a causal LM can be asked: nothing but punctuation follows the answer."""
        return bool(re.fullmatch(r"\W*", self.suffix)) and self.subject in self.prefix

    @property
    def sentence(self) -> Sentence:
        """The sentence with its spans."""
        start = len(self.prefix)
        end = start + len(self.answer)
        before = self.pattern.index("[X]") < self.pattern.index("[Y]")
        clue = self.pattern.index("[X]") if before else end + self.suffix.index(self.subject)
        return Sentence(self.text, (start, end), (clue, clue + len(self.subject)))


@dataclass(frozen=True)
class BundledPair:
    """A minimal pair that ships with the package.

    Attributes:
        paradigm: BLiMP's UID.
        good: The good sentence.
        bad: The bad sentence.
        one_prefix: Whether BLiMP's one-prefix method is valid.
        held_out: Whether the good sentence is withheld from training.
    """

    paradigm: str
    good: str
    bad: str
    one_prefix: bool
    held_out: bool

    @property
    def words(self) -> tuple[int, str, str]:
        """Index among the blank-separated words of the one that differs; the good and the bad word.

        Neither word includes the full stop.
        """
        good, bad = self.good.rstrip(".").split(), self.bad.rstrip(".").split()
        index = next(i for i, (a, b) in enumerate(zip(good, bad, strict=True)) if a != b)
        return index, good[index], bad[index]

    @property
    def prefix(self) -> str:
        """The words before the one that differs."""
        index, _, _ = self.words
        return " ".join(self.good.split()[:index])


def is_held_out_fact(fact_index: int, pattern_index: int) -> bool:
    """Whether the combination of these indices (in file order, from 0) is withheld."""
    return (fact_index + pattern_index) % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1


def is_held_out_pair(pair_id: int | str) -> bool:
    """Whether the bundled minimal pair with this ``pairID`` is withheld."""
    return int(pair_id) % 2 == 1


def _rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


@lru_cache
def fact_sentences() -> tuple[FactSentence, ...]:
    """Every bundled fact in every pattern of its relation."""
    found = []
    for path in sorted((BUNDLED / "pararel" / "facts").glob("P*.jsonl")):
        patterns = _rows(BUNDLED / "pararel" / "patterns" / path.name)
        for i, fact in enumerate(_rows(path)):
            for j, pattern in enumerate(patterns):
                found.append(
                    FactSentence(
                        path.stem,
                        pattern["pattern"],
                        fact["sub_label"],
                        fact["obj_label"],
                        is_held_out_fact(i, j),
                    )
                )
    return tuple(found)


@lru_cache
def bundled_pairs() -> tuple[BundledPair, ...]:
    """Every bundled minimal pair."""
    return tuple(
        BundledPair(
            row["UID"],
            row["sentence_good"],
            row["sentence_bad"],
            bool(row["one_prefix_method"]),
            is_held_out_pair(row["pairID"]),
        )
        for path in sorted((BUNDLED / "blimp").glob("*.jsonl"))
        for row in _rows(path)
    )


@lru_cache
def held_out_texts() -> frozenset[str]:
    """Every sentence that training must not contain."""
    facts = {item.text for item in fact_sentences() if item.held_out}
    return frozenset(facts | {pair.good for pair in bundled_pairs() if pair.held_out})


def training_facts() -> list[Sentence]:
    """The fact sentences of training, each once per relation that forms it."""
    return [item.sentence for item in fact_sentences() if item.text not in held_out_texts()]


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
