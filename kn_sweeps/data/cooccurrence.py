"""How often words follow certain words in running text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*|[.!?;:]")
_ENDS = frozenset(".!?;:")


def is_word(text: str) -> bool:
    """Whether a text is one word, as `count_following` cuts words."""
    return _WORD.fullmatch(text) is not None and text not in _ENDS


def count_following(
    texts: Iterable[str], first: Collection[str], second: Collection[str], window: int
) -> Counter[tuple[str, str]]:
    """Count the pairs (a, b) in which b is one of the `window` words behind a.

    Words are compared in lower case; a pair does not reach over the end of a sentence or clause
    (`. ! ? ; :`). The nearest b counts for each a only once.

    Args:
        texts: Read once, one after the other.
        first: The words a.
        second: The words b.
        window: 1 for words that stand side by side.

    Raises:
        ValueError: If the window is below 1.
    """
    if window < 1:
        raise ValueError(f"window must be at least 1, got {window}")
    left, right = {w.lower() for w in first}, {w.lower() for w in second}
    counts: Counter[tuple[str, str]] = Counter()
    for text in texts:
        words = _WORD.findall(text.lower())
        for at, word in enumerate(words):
            if word not in left:
                continue
            seen: set[str] = set()
            for other in words[at + 1 : at + 1 + window]:
                if other in _ENDS:
                    break
                if other in right and other not in seen:
                    counts[word, other] += 1
                    seen.add(other)
    return counts
