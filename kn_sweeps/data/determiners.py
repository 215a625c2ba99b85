"""Determiners and the nouns they agree with, from BLiMP's minimal pairs.

Where `Blimp` locates one form at a time, here the words of one number are located as one rule, and
24 words that can stand before the noun are followed under the edit.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from kn_sweeps.cases import Case, LMKind, Probe, Query
from kn_sweeps.data.base import Loaded, check_counts, check_share, left_out
from kn_sweeps.data.paradigms import BlimpFiles, Pair, available_paradigms, read_paradigm
from kn_sweeps.data.sources import Source, check_names
from kn_sweeps.seeding import shuffler

DETERMINERS = {"this": "singular", "that": "singular", "these": "plural", "those": "plural"}
"""The determiners that locate, and their number."""
MODIFIERS = {
    "singular": ("this", "that", "one", "a", "an", "every", "unique", "single", "sole"),
    "plural": ("these", "those", "two", "both", "multiple", "several", "various"),
    "neutral": ("the", "any", "all", "some", "my", "our", "unified", "scattered"),
}
"""Niu et al.'s 24 prenominal modifiers (figure 3), by the number they express."""
PARADIGMS: dict[LMKind, str] = {
    "masked": "determiner_noun_agreement_2",
    "causal": "determiner_noun_agreement_1",
}


@dataclass(frozen=True)
class _Agreement:
    """A sentence, the determiner in it, and its slot."""

    pair: Pair
    determiner: str
    query: Query

    def with_modifier(self, word: str) -> tuple[Query, str]:
        """The query and the answer that ask for `word` before the noun."""
        if self.pair.old.lower() in DETERMINERS:
            return self.query, word
        assert self.query.subject is not None
        start, end = self.query.subject
        prefix = self.query.prefix[:start] + word + self.query.prefix[end:]
        query = Query(prefix, self.query.suffix, (start, start + len(word)))
        return query, self.pair.old


@dataclass(frozen=True, kw_only=True)
class Determiners(BlimpFiles):
    """Agreement of a determiner and its noun in one slot.

    A masked LM is asked for the determiner, before a noun that it reads. A causal LM reads nothing
    behind the slot, so it is asked for the noun, after a determiner. A case is a held-out sentence
    whose answer is to take the other number; other sentences locate.

    Attributes:
        by: What the sources are: `number` (this and that are located as one rule, these and
            those as another) or `determiner` (each on its own).
        paradigm: A BLiMP paradigm whose sentences differ in a demonstrative (masked LMs) or in the
            noun behind one (causal LMs); null for the first of determiner_noun_agreement that does.
        seen_share: Share of the sentences that may locate.
        max_seen: Most sentences of each determiner that do.
        modifiers: Whether the 24 prenominal modifiers are followed in every case.
    """

    by: Literal["number", "determiner"] = "number"
    paradigm: str | None = None
    seen_share: float = 0.5
    max_seen: int = 10
    modifiers: bool = True

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant."""
        check_share(self.seen_share)
        check_counts(max_seen=self.max_seen)

    def load(self, kind: LMKind, *, seed: int, limit: int | None, editable: bool) -> Loaded:
        """Make the cases, `limit` a source; every one can be edited."""
        del editable
        source = self.resolved()
        sentences = self._sentences(source, kind)
        shuffler(seed, "determiners").shuffle(sentences)
        cut = max(1, round(len(sentences) * self.seen_share))
        cases: list[Case] = []
        reports = []
        for name in dict.fromkeys(map(self._source, sentences)):
            seen, held_out = (
                [one for one in part if self._source(one) == name]
                for part in (sentences[:cut], sentences[cut:])
            )
            prompts = self._prompts(seen)
            made = [self._case(name, one, prompts) for one in held_out[:limit]]
            reasons = Counter({"beyond limit": len(held_out) - len(made)})
            reasons["held out to locate"] = len(seen)
            cases += made
            reports.append(left_out(name, len(made), reasons))
        return Loaded(tuple(cases), tuple(reports), source.name)

    def _sentences(self, source: Source, kind: LMKind) -> list[_Agreement]:
        name = self.paradigm or PARADIGMS[kind]
        check_names([name], available_paradigms(source), "paradigm")
        found = []
        for pair in read_paradigm(source, name).pairs:
            masked = pair.old in DETERMINERS and pair.new in DETERMINERS
            determiner = pair.old if masked else pair.trigger
            if (
                determiner in DETERMINERS
                and masked == (kind == "masked")
                and not pair.why_not(kind)
            ):
                found.append(_Agreement(pair, determiner, pair.query))
        if not found:
            what = "a demonstrative" if kind == "masked" else "the noun behind a demonstrative"
            raise ValueError(
                f"no sentence of {name} has {what} as its critical word, as a {kind} LM needs it; "
                f"use {PARADIGMS[kind]}"
            )
        return found

    def _source(self, sentence: _Agreement) -> str:
        by_number = self.by == "number"
        return DETERMINERS[sentence.determiner] if by_number else sentence.determiner

    def _prompts(self, sentences: list[_Agreement]) -> list[_Agreement]:
        """As many of each determiner, and of each as many as may be."""
        by_word: dict[str, list[_Agreement]] = {}
        for one in sentences:
            by_word.setdefault(one.determiner, []).append(one)
        each = min([self.max_seen, *map(len, by_word.values())])
        return [one for group in by_word.values() for one in group[:each]]

    def _case(self, name: str, sentence: _Agreement, prompts: list[_Agreement]) -> Case:
        pair = sentence.pair
        followed = [
            Probe(query, answer, answer, "elsewhere", f"{number}/{word}")
            for number, words in MODIFIERS.items()
            for word in words
            for query, answer in [sentence.with_modifier(word)]
        ]
        return Case(
            id=f"{pair.paradigm}/{pair.index:04d}",
            source=name,
            task="syntax",
            edit=Probe(sentence.query, pair.old, pair.new, "edit"),
            seen=tuple(prompt.query for prompt in prompts),
            seen_answers=tuple(prompt.pair.old for prompt in prompts),
            probes=tuple(followed) if self.modifiers else (),
        )
