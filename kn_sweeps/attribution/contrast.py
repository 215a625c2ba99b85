"""An answer beside another one to the same query, for measures that compare the two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from kn_sweeps.cases import Query
from kn_sweeps.models.language_model import InputRow, LanguageModel
from kn_sweeps.models.tokenization import Encoded

Encode = Callable[[Query, str, str], Encoded]
"""Puts a target into a query, beside its rival."""


def encoder(lm: LanguageModel, measure: str) -> Encode:
    """How what is attributed is encoded: the rival counts where logits are compared."""
    if measure == "logit_difference":
        return partial(contrasted, lm)
    return lambda query, target, _rival: lm.encode(query, target)


@dataclass(frozen=True)
class Contrasted(Encoded):
    """A query with an answer, read where the answer departs from another one.

    `target` begins with the first token by which they differ. Of a causal LM it is that token
    alone; a masked LM has masks in place of the answer's later tokens, which are not read.

    Attributes:
        rival: The token that the other answer has there.
    """

    rival: int


def contrasted(lm: LanguageModel, query: Query, target: str, rival: str) -> Contrasted:
    """Encode `query` with `target`, to be compared with `rival`.

    Of a masked LM there are as many masks as `target` has tokens.

    Raises:
        UnscorableError: If either answer cannot be put into the query.
        ValueError: If no token tells them apart: they are one, or one is how the other begins.
    """
    one, other = (lm.encode(query, answer) for answer in (target, rival))
    pairs = zip(one.target_ids, other.target_ids, strict=False)
    differing = next((n for n, (a, b) in enumerate(pairs) if a != b), None)
    if differing is None:
        raise ValueError(
            f"{query.text!r}: no token tells {target!r} from {rival!r}, so that they have no "
            "difference of logits; use another measure"
        )
    start = one.target[0] + differing
    stop = one.target[1] if lm.kind == "masked" else start + 1
    return Contrasted(
        one.ids if lm.kind == "masked" else one.ids[:stop],
        (start, stop),
        one.subject,
        other.target_ids[differing],
    )


def rival_of(prompt: Encoded) -> int | None:
    """The token a prompt's target is compared with; None where there is none."""
    return prompt.rival if isinstance(prompt, Contrasted) else None


def rows_of(lm: LanguageModel, prompt: Encoded) -> list[InputRow]:
    """The rows that are read of a prompt: of a contrasted one, the first."""
    rows = lm.rows(prompt)
    return rows[:1] if isinstance(prompt, Contrasted) else rows
