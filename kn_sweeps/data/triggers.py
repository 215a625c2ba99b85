"""Where a minimal pair's trigger stands: the word that fixes which form is right.

For agreement it is found by the paradigm's build (BLiMP's sentences are generated, so a few rules
reach them); elsewhere it is the last word before the critical one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_DEMONSTRATIVES = {"this", "that", "these", "those"}
_DETERMINERS = _DEMONSTRATIVES | {
    *("a", "an", "the", "some", "all", "most", "many", "every", "each", "few", "several", "no"),
    *("both", "any", "my", "your", "his", "her", "our", "their"),
}
_ATTACHED = {"of", "about", "that", "who", "which", "whom", "from", "with", "to", "for", "in"}


@dataclass(frozen=True)
class Word:
    """A word and its character span [start, end)."""

    text: str
    start: int
    end: int

    @property
    def lower(self) -> str:
        """Its lower-case form."""
        return self.text.lower()


def words(text: str, offset: int = 0) -> list[Word]:
    """The words of `text`; spans are shifted by `offset`."""
    return [Word(m.group(), m.start() + offset, m.end() + offset) for m in _WORD.finditer(text)]


def find_trigger(paradigm: str, prefix: str, old: str, suffix: str) -> Word | None:
    """The trigger of a pair.

    Args:
        paradigm: BLiMP's UID.
        prefix: Text before the critical word.
        old: The grammatical critical word.
        suffix: Text after it.

    Returns:
        The word with its span in `prefix + suffix`; None for a sentence of one word.
    """
    before, after = words(prefix), words(suffix, len(prefix))
    found: Word | None = None
    if paradigm.startswith("determiner_noun_agreement"):
        if old.lower() in _DEMONSTRATIVES:
            found = after[-1] if after else None
        else:
            found = next((w for w in reversed(before) if w.lower in _DEMONSTRATIVES), None)
    elif paradigm.startswith("anaphor_"):
        found = _subject_head(before)
    elif paradigm.startswith("distractor_agreement"):
        found = _head_before_attachment(before)
    elif "plural_subject_verb_agreement_2" in paradigm:
        found = after[0] if after else None
    return found or (before[-1] if before else after[0] if after else None)


def _noun_phrase(before: list[Word]) -> list[Word]:
    """The sentence's words after its first determiner."""
    if [w.lower for w in before[:3]] == ["a", "lot", "of"]:
        return before[3:]
    return before[1:] if before and before[0].lower in _DETERMINERS else before


def _subject_head(before: list[Word]) -> Word | None:
    """The head of the subject: the word after a determiner, or the last word of a name."""
    phrase = _noun_phrase(before)
    if not phrase:
        return None
    head = phrase[0]
    for word in phrase[1:]:
        if not (head.text[0].isupper() and word.text[0].isupper()):
            break
        head = word
    return head


def _head_before_attachment(before: list[Word]) -> Word | None:
    """The noun before the first preposition or relative pronoun that follows it."""
    phrase = _noun_phrase(before)
    for head, following in zip(phrase, phrase[1:], strict=False):
        if following.lower in _ATTACHED:
            return head
    return phrase[0] if phrase else None
