"""Putting a user's mistake into words."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(given: str, choices: Iterable[str]) -> str:
    """` (did you mean threshold?)`; empty where nothing that can be chosen is near."""
    # Hyphens, case and underscores are what people mix up most: tiny-gpt2 is tiny_gpt2.
    plain = {_plain(choice): choice for choice in choices}
    near = get_close_matches(_plain(given), plain, n=1)
    return f" (did you mean {plain[near[0]]}?)" if near else ""


def shortened(text: str, most: int = 200) -> str:
    """`text` for a message: of a long one the beginning and the end."""
    if len(text) <= most:
        return text
    return f"{text[: most * 2 // 3]} ... {text[-(most // 4) :]}"


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")
