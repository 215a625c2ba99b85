"""Ask a language model: score targets and read greedy answers.

Questions may be asked of differently edited models in one batch: each carries its edit, and
`changed` puts those of a batch's rows into effect. An edit in context is part of what is asked.

How a model is asked depends on its kind: `causal_asking`, `masked_asking`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from kn_sweeps.cases import Query
from kn_sweeps.edits import Edit
from kn_sweeps.models.causal_asking import ask_causal
from kn_sweeps.models.language_model import InputRow, LanguageModel
from kn_sweeps.models.masked_asking import ask_masked
from kn_sweeps.models.reading import (
    Asked,
    Changed,
    Reply,
    Slot,
    TargetScore,
    read,
    score,
    texts_apart,
    unchanged,
)


class Question(NamedTuple):
    """A query with two targets, asked of the model under one edit.

    Attributes:
        query: What is asked.
        old: The first target.
        new: The second; it may equal the first.
        edit: The edit; None where nothing is changed.
        rival: A third, which has no say in how long the greedy answer is; empty for none.
    """

    query: Query
    old: str
    new: str
    edit: Edit | None = None
    rival: str = ""

    @property
    def targets(self) -> tuple[str, ...]:
        """Both targets, and the rival where there is one."""
        return (self.old, self.new, self.rival) if self.rival else (self.old, self.new)


class Sentence(NamedTuple):
    """A whole sentence, scored under one edit; see `Question.edit`."""

    text: str
    edit: Edit | None = None


@torch.inference_mode()
def ask(
    lm: LanguageModel, questions: Sequence[Question], changed: Changed | None = None
) -> list[Reply]:
    """Ask every question.

    Raises:
        UnscorableError: If a question cannot be tokenised.
    """
    texts = texts_apart(q.edit for q in questions)
    asked = []
    for n, q in enumerate(questions):
        text, edit = texts[q.edit]
        asked.append(Asked(n, tuple(lm.encode(q.query, t, text) for t in q.targets), edit))
    replies = dict(
        (ask_causal if lm.kind == "causal" else ask_masked)(lm, asked, changed or unchanged)
    )
    return [replies[n] for n in range(len(questions))]


@torch.inference_mode()
def score_sentences(
    lm: LanguageModel, sentences: Sequence[Sentence], changed: Changed | None = None
) -> list[TargetScore]:
    """Score whole sentences; see `LanguageModel.sentence_rows`."""
    texts = texts_apart(sentence.edit for sentence in sentences)
    edits = [texts[sentence.edit][1] for sentence in sentences]
    encoded = [lm.encode(Query(""), one.text, texts[one.edit][0]) for one in sentences]
    rows = [lm.sentence_rows(one) for one in encoded]
    readings = read(
        lm,
        (
            _slot(row, position, edit, token)
            for edit, group in zip(edits, rows, strict=True)
            for row in group
            for position, token in zip(row.positions, row.tokens, strict=True)
        ),
        changed or unchanged,
    )
    return [
        score(
            one.target_ids,
            [
                readings[_slot(row, position, edit, token)]
                for row in group
                for position, token in zip(row.positions, row.tokens, strict=True)
            ],
        )
        for edit, one, group in zip(edits, encoded, rows, strict=True)
    ]


def _slot(row: InputRow, position: int, edit: Edit | None, token: int) -> Slot:
    return Slot(row.ids, edit, position, token)
