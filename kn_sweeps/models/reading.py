"""What is read of a model: scores of targets, and the rows and places they are read from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from kn_sweeps.edits import Edit, apart
from kn_sweeps.models.language_model import Ids, LanguageModel
from kn_sweeps.models.tokenization import Encoded
from kn_sweeps.progress.counting import counted

Changed = Callable[[Sequence[Edit | None]], AbstractContextManager[None]]
"""Gives the rows of a batch, in order, these edits; None leaves a row as it is."""


def unchanged(_edits: Sequence[Edit | None]) -> AbstractContextManager[None]:
    """Leaves all rows as they are."""
    return nullcontext()


@dataclass(frozen=True)
class TargetScore:
    """How a model rates one target.

    Attributes:
        ids: The target's token ids.
        log_probs: Log-probability of each, in nats, given the gold tokens before it.
        best: The argmax at the position of each, likewise.
        exact: Whether the greedy answer, as long as the target, is the target.
    """

    ids: Ids
    log_probs: tuple[float, ...]
    best: Ids
    exact: bool

    @property
    def log_prob(self) -> float:
        """Joint log-probability of the target, in nats."""
        return sum(self.log_probs)

    @property
    def hits(self) -> tuple[bool, ...]:
        """Whether each token is the argmax at its position."""
        return tuple(one == best for one, best in zip(self.ids, self.best, strict=True))

    @property
    def argmax(self) -> bool:
        """Whether every token is the argmax under teacher forcing."""
        return all(self.hits)

    @property
    def token_share(self) -> float:
        """Share of the target's tokens that are the argmax, in [0, 1]."""
        return sum(self.hits) / len(self.hits)


@dataclass(frozen=True)
class Reply:
    """What a model says to one question.

    Attributes:
        old: The score of the first target.
        new: The score of the second.
        answer: Greedy answer; a causal LM's has as many tokens as the longer target, a masked
            LM's as many pieces as `new`.
        first_log_probs: Log-probabilities of the answer's first token, in nats, on the CPU.
        rival: The score of the third; None where there is none.
    """

    old: TargetScore
    new: TargetScore
    answer: str
    first_log_probs: Float[Tensor, " vocab"]
    rival: TargetScore | None = None


class Asked(NamedTuple):
    """A question with each target in its slot.

    Attributes:
        number: The question's, which replies are sorted by.
        targets: The first and the second target, encoded, and the rival where there is one.
        edit: See `asking.Question`.
    """

    number: int
    targets: tuple[Encoded, ...]
    edit: Edit | None


class Reading(NamedTuple):
    """One place, read: the likeliest token, and the log-probability of the gold one."""

    argmax: int
    log_prob: float
    gold: int
    log_probs: Tensor | None = None


class Slot(NamedTuple):
    """One place to read; `whole` keeps all log-probabilities, on the CPU."""

    ids: Ids
    edit: Edit | None
    position: int
    token: int
    whole: bool = False


def texts_apart(edits: Iterable[Edit | None]) -> dict[Edit | None, tuple[str, Edit | None]]:
    """What each edit puts before everything that is asked, and the rest of it, which rows have."""
    return {edit: apart(edit) for edit in dict.fromkeys(edits)}


def score(ids: Ids, found: Sequence[Reading], answer: Ids | None = None) -> TargetScore:
    """The score of a target by what was read at its tokens, and by the greedy answer."""
    best = tuple(one.argmax for one in found)
    exact = (best if answer is None else answer) == ids
    return TargetScore(ids, tuple(one.log_prob for one in found), best, exact)


def batches(
    rows: Iterable[tuple[Ids, Edit | None]], size: int
) -> Iterator[list[tuple[Ids, Edit | None]]]:
    """Rows of like length together: padding is waste. Equal ones are in the order of edits."""
    every = list(rows)
    order: dict[Edit | None, int] = {}
    for _, edit in every:
        order.setdefault(edit, len(order))
    ordered = sorted(every, key=lambda row: (len(row[0]), row[0], order[row[1]]))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def read(lm: LanguageModel, slots: Iterable[Slot], changed: Changed) -> dict[Slot, Reading]:
    """Read whole rows; equal ones are computed once."""
    wanted: dict[tuple[Ids, Edit | None], dict[Slot, None]] = defaultdict(dict)
    for slot in slots:
        wanted[slot.ids, slot.edit][slot] = None
    readings: dict[Slot, Reading] = {}
    for chunk in counted(list(batches(wanted, lm.batch_size)), "batch of rows"):
        places = [(i, slot) for i, row in enumerate(chunk) for slot in wanted[row]]
        with changed([edit for _, edit in chunk]):
            log_probs = lm.log_probs(
                lm.batch([ids for ids, _ in chunk]),
                [i for i, _ in places],
                [slot.position for _, slot in places],
            )
        found = readings_of(log_probs, [slot.token for _, slot in places])
        for (_, slot), reading, whole in zip(places, found, log_probs, strict=True):
            kept = whole.cpu() if slot.whole else None
            readings[slot] = reading._replace(log_probs=kept)
    return readings


def readings_of(log_probs: Float[Tensor, "reads vocab"], tokens: Sequence[int]) -> list[Reading]:
    """What log-probabilities say of a gold token each."""
    gold = log_probs.gather(1, torch.tensor(tokens, device=log_probs.device)[:, None])[:, 0]
    best = log_probs.argmax(-1)
    return [Reading(*each) for each in zip(best.tolist(), gold.tolist(), tokens, strict=True)]


def reply(lm: LanguageModel, scores: Sequence[TargetScore], answer: Ids, first: Tensor) -> Reply:
    """A reply whose answer is text."""
    text = str(lm.tokenizer.decode(list(answer), skip_special_tokens=True)).strip()
    old, new, *rival = scores
    return Reply(old, new, text, first, *rival)
