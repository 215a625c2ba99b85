"""Let a causal LM write: an answer to its natural stop, or a text that goes on from a prompt.

Each prompt is read once; then every row of a batch takes one token a step behind its cached keys
and values, under its own edit, and leaves the batch where it ends.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from kn_sweeps.cases import Query
from kn_sweeps.edits import Edit
from kn_sweeps.models.causal_asking import Trunks, read_behind
from kn_sweeps.models.language_model import Ids, LanguageModel
from kn_sweeps.models.reading import Changed, batches, texts_apart, unchanged
from kn_sweeps.progress.counting import counted
from kn_sweeps.seeding import generator

_NO_END = frozenset(
    (
        "mr",
        "mrs",
        "ms",
        "dr",
        "prof",
        "st",
        "mt",
        "ft",
        "jr",
        "sr",
        "inc",
        "ltd",
        "co",
        "corp",
        "vs",
    )
    + ("etc", "gen", "gov", "sen", "rep", "capt", "lt", "sgt", "rev", "hon", "ave", "blvd")
)
"""Words whose full stop ends no sentence."""

_END = re.compile(r"(\S*?)[.!?]+[\"')\]”’]*(?=\s)|\n")


class Prompt(NamedTuple):
    """What a model goes on from, under one edit; None where nothing is changed."""

    query: Query
    edit: Edit | None = None


@dataclass(frozen=True)
class Writing:
    """How a text is written.

    Attributes:
        max_tokens: Its length at most.
        stops: Whether it ends with its first sentence or line; else with the model's end of text.
        top_k: How many of the likeliest tokens each is drawn from; 1 for the likeliest.
        seed: Of the draws; each prompt has its own, whatever it shares a batch with.
    """

    max_tokens: int
    stops: bool = True
    top_k: int = 1
    seed: int = 0


def natural_end(text: str) -> int | None:
    """Where the first sentence or line of a text ends; None where it does not.

    Blanks and empty lines before it do not count. The full stop of an initial, of "D.C." or of a
    word such as "St." ends no sentence; one that ends the text may, which nobody knows yet.
    """
    begins = len(text) - len(text.lstrip())
    for found in _END.finditer(text, begins):
        word = (found[1] or "").lower().lstrip("(\"'“‘[")
        abbreviated = len(word) == 1 or "." in word or word in _NO_END
        if found[0] == "\n" or not abbreviated or text[found.end(1)] != ".":
            return found.start() if found[0] == "\n" else found.end()
    return None


@torch.inference_mode()
def write(
    lm: LanguageModel, prompts: Sequence[Prompt], writing: Writing, changed: Changed | None = None
) -> list[str]:
    """What a causal LM writes behind each prompt, without the blanks around it.

    Equal prompts under one edit are asked once. A text ends where `writing` says, or where the
    model has read as many tokens as it can.

    Raises:
        UnscorableError: If a prompt cannot be tokenised.
        ValueError: If the model is a masked one, which does not write.
    """
    if lm.kind != "causal":
        raise ValueError(f"{lm.name} is a masked LM: it fills slots and writes no free answers")
    apart = texts_apart(one.edit for one in prompts)
    asked = [(one.query, *apart[one.edit]) for one in prompts]
    rows = [(lm.encode_open(query, text).prompt_ids, edit) for query, text, edit in asked]
    texts: dict[tuple[Ids, Edit | None], str] = {}
    size = lm.batch_size
    for batch in counted(list(batches(dict.fromkeys(rows), size)), "batch of free answers"):
        texts |= zip(batch, _written(lm, batch, writing, changed or unchanged), strict=True)
    return [texts[row] for row in rows]


def _written(
    lm: LanguageModel,
    batch: Sequence[tuple[Ids, Edit | None]],
    writing: Writing,
    changed: Changed,
) -> list[str]:
    """The texts behind a batch of prompts."""
    trunks = Trunks(lm, batch, changed)
    prompts = [ids for ids, _ in batch]
    ends = lm.ends
    longest = lm.architecture.max_tokens
    room = [min(writing.max_tokens, (longest or math.inf) - len(ids)) for ids in prompts]
    draws = [generator(writing.seed, "text", *ids) for ids in prompts]
    written: list[list[int]] = [[] for _ in prompts]
    texts = [""] * len(prompts)
    going = [row for row, space in enumerate(room) if space > 0]
    growing = _Growing(lm, trunks, changed)
    log_probs = trunks.log_probs[going]
    for step in range(writing.max_tokens):
        tokens = _chosen(log_probs, writing.top_k, [draws[row] for row in going])
        kept = []
        for place, (row, token) in enumerate(zip(going, tokens, strict=True)):
            if token in ends:
                continue
            written[row].append(token)
            text = str(lm.tokenizer.decode(written[row], skip_special_tokens=True))
            end = natural_end(text) if writing.stops else None
            texts[row] = text[:end]
            if end is None and step + 1 < room[row]:
                kept.append(place)
        if not kept:
            break
        going = [going[place] for place in kept]
        log_probs = growing.by(going, [written[row][-1] for row in going])
    return [text.strip() for text in texts]


class _Growing:
    """Rows behind their prompts, which grow by a token each."""

    def __init__(self, lm: LanguageModel, trunks: Trunks, changed: Changed) -> None:
        """Begin with all prompts."""
        self._lm, self._changed, self._edits = lm, changed, trunks.edits
        self._rows = list(range(len(trunks.edits)))
        self._mask, self._kept = trunks.mask, trunks.kept

    def by(self, rows: list[int], tokens: Sequence[int]) -> Float[Tensor, "rows vocab"]:
        """Add a token to each of some rows, the only ones that go on; what follows them."""
        if rows != self._rows:
            at = [self._rows.index(row) for row in rows]
            self._mask = self._mask[at]
            self._kept = [(keys[at], values[at]) for keys, values in self._kept]
            self._rows = rows
        batch = self._lm.batch([(token,) for token in tokens])
        edited = self._changed([self._edits[row] for row in rows])
        hidden, self._kept = read_behind(self._lm, batch, self._mask, self._kept, edited)
        self._mask = torch.cat([self._mask, batch.mask], 1)
        return self._lm.predicted(hidden[:, 0])


def _chosen(
    log_probs: Float[Tensor, "rows vocab"], top_k: int, draws: Sequence[torch.Generator]
) -> list[int]:
    """A token for each row."""
    if top_k == 1:
        likeliest: list[int] = log_probs.argmax(-1).tolist()
        return likeliest
    top = log_probs.topk(top_k)
    odds = top.values.cpu().exp()
    drawn = [int(torch.multinomial(o, 1, generator=g)) for o, g in zip(odds, draws, strict=True)]
    return [int(ids[n]) for ids, n in zip(top.indices.cpu(), drawn, strict=True)]
