"""What judges say of answers, so that it can score rows: a verdict a distinct answer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from kn_sweeps.cases import Query

VERDICTS = "verdicts"
"""The name of a run's table of them, beside its measurements: columns `id` and `verdict`."""
JUDGED = ("edit", "rephrase", "synonym", "portability", "reversal")
"""Kinds of probes whose answers are judged; a neighbour's is compared with itself."""


class Answered(NamedTuple):
    """What a judge sees: whether `answer` gives the target is the question.

    Attributes:
        question: The prompt, with its slot as `___`.
        target: The answer it should be.
        aliases: Other wordings of it.
        answer: What was answered, freely where that was asked for.
    """

    question: str
    target: str
    aliases: tuple[str, ...]
    answer: str

    @property
    def id(self) -> str:
        """Sixteen hex digits: the same for all runs in which this was answered."""
        text = "\x1f".join((self.question, self.target, *self.aliases, "", self.answer))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def answers_of(
    rows: pd.DataFrame, when: Literal["pre", "post"], target: Literal["old", "new"]
) -> Iterator[Answered | None]:
    """By row, what was answered; None where there is nothing to judge."""
    for row in rows.to_dict("records"):
        if row["kind"] not in JUDGED or row["task"] != "fact":
            yield None
            continue
        free = row[f"{when}_generated"]
        answer = free if isinstance(free, str) else row[f"{when}_answer"]
        question = Query(row["prefix"], row["suffix"]).text
        aliases: Sequence[str] = row[f"{target}_aliases"]
        yield Answered(question, row[target], tuple(aliases), answer)


def asked_for(rows: pd.DataFrame) -> Iterator[tuple[Literal["pre", "post"], Literal["old", "new"]]]:
    """Which answers decide: old before, and after it new, or old where that is to be erased."""
    yield "pre", "old"
    yield "post", "old" if "erase" in set(rows["intent"]) else "new"


def with_verdicts(rows: pd.DataFrame, verdicts: Mapping[str, float]) -> pd.DataFrame:
    """The rows with the columns that the scorer `judged` reads, NaN where nobody judged."""
    judged = {
        f"{when}_judged_{target}": np.array(
            [
                np.nan if one is None else verdicts.get(one.id, np.nan)
                for one in answers_of(rows, when, target)
            ],
            np.float64,
        )
        for when, target in asked_for(rows)
    }
    return rows.assign(**judged)
