"""Texts to put before a prompt, sampled from the model itself."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.sampling import sampled
from kn_sweeps.seeding import generator

_Known = dict[tuple[int, int, tuple[int, ...], tuple[str, ...]], list[str]]
_KNOWN: WeakKeyDictionary[LanguageModel, _Known] = WeakKeyDictionary()


def sampled_contexts(
    lm: LanguageModel,
    seed: int,
    count: int,
    lengths: Sequence[int],
    openings: Sequence[str] = (),
) -> list[str]:
    """The empty text, and `count` continuations of every length, each followed by ". ".

    They depend on the model and these arguments only, and are drawn once for each.

    Args:
        lm: The model, unedited.
        seed: What the draw starts from.
        count: Continuations of each length.
        lengths: Tokens sampled, behind the opening.
        openings: Words they begin with, in turn; none to begin with the model's start token.

    Source: Meng et al. (2022), whose code samples 10 of length 5 and 10 of length 10, top-5, from
    `<|endoftext|>`; that of Meng et al. (2023) begins with "The", "Therefore", "Because", "I" and
    "You", and counts them into the length.
    """
    known = _KNOWN.setdefault(lm, {})
    key = (seed, count, tuple(lengths), tuple(openings))
    if key not in known:
        draw = generator(seed, "contexts")
        texts = [
            text
            for length in (lengths if count else ())
            for text in sampled(lm, count, length, top_k=5, generator=draw, openings=openings)
        ]
        known[key] = ["", *(" ".join(text.split()) + ". " for text in texts)]
    return list(known[key])
