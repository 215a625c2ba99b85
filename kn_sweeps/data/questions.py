"""From a text, as people write it, to a query: where its subject and its answer stand.

The answer follows the text, or stands where it has `___`, `[Y]` or a mask token. The subject stands
where the text has `{}` or `[X]`, or where it is found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from kn_sweeps.cases import Query

PLACE, SLOT = "{}", "___"
"""Where a template has its subject, and where any text has its answer, if not at its end."""
_SLOT = re.compile(r"_{2,}|\[Y\]|\[MASK\]|<mask>")
_MARKED = re.compile(r"\{([^{}]+)\}")


class UnclearError(ValueError):
    """A text that does not say where its subject or its answer stands."""

    def __init__(self, text: str, reason: str) -> None:
        """Say what is wrong with which text, and what to do."""
        super().__init__(f"{text!r}: {reason}")


def marked_subject(text: str) -> tuple[str, str]:
    """The subject that a text has in braces, and the text with `{}` there; or none, and the text.

    "The capital of {France} is" gives "France" and "The capital of {} is".
    """
    found = _MARKED.findall(text)
    if len(found) != 1 or PLACE in text:
        return "", text
    return found[0].strip(), _MARKED.sub(PLACE, text)


def placed(text: str) -> str:
    """The text with `{}` where it has `[X]`."""
    return text.replace("[X]", PLACE)


def about(text: str, subject: str) -> Query:
    """A text as a query, with its subject found.

    Args:
        text: It has `{}` where the subject is read, or the subject itself, once as a whole word.
        subject: The subject.

    Raises:
        UnclearError: If the subject stands there more than once or nowhere, or there are two slots.
    """
    text = placed(text)
    count = text.count(PLACE)
    if not count:
        places = _occurrences(text, subject)
        count = len(places)
        if count == 1:
            start, end = places[0]
            return _query(text[:start], text[start:end], text[end:])
    if count != 1:
        how = f"{count} times" if count else "nowhere"
        raise UnclearError(
            text.replace(PLACE, subject),
            f"the subject {subject!r} stands there {how}; write {{}} once, where it is to be read, "
            "and the subject out elsewhere",
        )
    before, after = text.split(PLACE)
    return _query(before, subject, after)


def asked(text: str) -> Query:
    """A text as a query without a subject.

    Raises:
        UnclearError: If it has two slots.
    """
    return _query(text, "", "")


def asked_about(text: str, subject: str) -> Query:
    """A text as a query, with its subject where it is found without doubt.

    Raises:
        UnclearError: If it has two slots, or `{}` more than once, or without a subject.
    """
    text = placed(text)
    if subject and (text.count(PLACE) == 1 or len(_occurrences(text, subject)) == 1):
        return about(text, subject)
    if PLACE in text:
        raise UnclearError(
            text, "{} stands there, but there is no one subject for it; write it out"
        )
    return asked(text)


def _occurrences(text: str, subject: str) -> list[tuple[int, int]]:
    """Where a subject stands as a whole word; in another case of letters where it does not.

    Spans [start, end). A regular expression for each of ten thousand subjects takes seconds.
    """
    return list(_words(text, subject)) or (
        list(_words(text.lower(), subject.lower())) if len(text.lower()) == len(text) else []
    )


def _words(text: str, word: str) -> Iterator[tuple[int, int]]:
    start = text.find(word)
    while start >= 0:
        end = start + len(word)
        if not (_in_word(text[start - 1 : start]) or _in_word(text[end : end + 1])):
            yield start, end
        start = text.find(word, end)


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _query(before: str, subject: str, after: str) -> Query:
    """A query of a text in three parts, with its slot in one of the outer ones or at the end."""
    slots = [_SLOT.findall(part) for part in (before, after)]
    count = sum(map(len, slots))
    if count > 1:
        whole = before + subject + after
        raise UnclearError(whole, "it has more than one ___: a text has one answer")
    if not count:
        if subject:
            after = f"{after.rstrip()} {SLOT}"
        else:
            before = f"{before.rstrip()} {SLOT}"
    if _SLOT.search(before):
        prefix, rest = _SLOT.split(before)
        suffix = rest + subject + after
        start = len(prefix) + len(rest)
    else:
        end, suffix = _SLOT.split(after)
        prefix, start = before + subject + end, len(before)
    return Query(prefix, suffix, (start, start + len(subject)) if subject else None)
