"""Texts to put before a prompt, sampled from the model itself."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.seeding import generator

_Known = dict[tuple[int, int, tuple[int, ...]], list[str]]
_KNOWN: WeakKeyDictionary[LanguageModel, _Known] = WeakKeyDictionary()


def sampled_contexts(lm: LanguageModel, seed: int, count: int, lengths: Sequence[int]) -> list[str]:
    """The empty text, and `count` continuations of every length, each followed by ". ".

    They depend on the model, the seed and the lengths only, and are drawn once for each.

    Source: Meng et al. (2022), whose code samples 10 of length 5 and 10 of length 10, top-5.
    """
    known = _KNOWN.setdefault(lm, {})
    key = (seed, count, tuple(lengths))
    if key not in known:
        draw = generator(seed, "contexts")
        texts = [
            text
            for length in (lengths if count else ())
            for text in lm.sample(count, length, top_k=5, generator=draw)
        ]
        known[key] = ["", *(" ".join(text.split()) + ". " for text in texts)]
    return list(known[key])
