"""The one rule of what a model answers, and of what it means for an edit to succeed."""

from __future__ import annotations

import re
import unicodedata
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kn_sweeps.cases import Intent
from kn_sweeps.metrics.base import Metric, Results
from kn_sweeps.metrics.bootstrap import Estimate, FloatArray
from kn_sweeps.metrics.quantities import Quantity

Scorer = Literal["exact", "argmax", "token", "margin", "generated", "contains", "judged"]
FREE: tuple[Scorer, ...] = ("generated", "contains")
"""Scorers that read the free answer."""
When = Literal["pre", "post"]
Target = Literal["old", "new"]

_WITHOUT_BLANKS = re.compile("([\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])")

GATE = "gated"
GATED = "only where the model knew the probe and the edit took"
"""The ending of a number over the rows that pass the gate, and what it says."""


def by_every_scorer(*quantities: Quantity) -> tuple[Quantity, ...]:
    """Numbers, and what they are called by other scorers; those of free answers are headlines."""
    freely = (
        replace(one.under("generated", "judged by the free answer"), headline=True)
        for one in quantities
        if one.headline
    )
    return (
        *quantities,
        *freely,
        *(one.under("<scorer>", "judged with scorer=<scorer>") for one in quantities),
    )


def normalised(text: str) -> str:
    """A text as answers are compared: without case, punctuation, articles and extra blanks.

    Source: the evaluation of SQuAD (Rajpurkar et al. 2016). Deviations: punctuation of every
    script; where words have no blanks between them, every character is one.
    """
    bare = "".join(c for c in text.lower() if not unicodedata.category(c).startswith(("P", "S")))
    words = _WITHOUT_BLANKS.sub(r" \1 ", bare)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", words).split())


def said_to_be(answer: str, targets: Sequence[str]) -> bool:
    """Whether a free answer is one of the targets."""
    return normalised(answer) in {normalised(one) for one in targets}


def said_among(answer: str, targets: Sequence[str]) -> bool:
    """Whether a free answer has one of the targets among its words."""
    words = f" {normalised(answer)} "
    return any(f" {normalised(one)} " in words for one in targets if normalised(one))


def answered(rows: pd.DataFrame, when: When, target: Target, scorer: Scorer) -> FloatArray:
    """How far each row's model gave a target as its answer.

    For a fact the scorer decides: `exact`, the greedy answer equals the target; `argmax`, every
    target token is the argmax under teacher forcing; `token`, the share of target tokens that
    are; `margin`, the target is preferred to the other; `generated`, the free answer, to its
    natural stop, is the target or one of its aliases but for case, articles and punctuation;
    `contains`, it has one of them among its words; `judged`, somebody says so (`verdicts`). For
    syntax there are two forms and the question is which one is preferred, so every scorer reads the
    margin log P(new) - log P(old).

    Args:
        rows: Rows of the run.
        when: Before (`pre`) or after (`post`) the edit.
        target: Which of the probe's two answers.
        scorer: How a fact is scored.

    Returns:
        Per row 1 or 0, a share for `token`, or NaN where the scorer cannot tell: `margin` on a
        fact whose old and new are one answer, `generated` and `contains` where the model was not
        asked to answer freely.
    """
    margin = rows[f"{when}_margin"].to_numpy(np.float64)
    preferred = margin > 0 if target == "new" else margin < 0
    if scorer == "margin":
        fact = np.where(rows["old"] == rows["new"], np.nan, preferred)
    elif scorer in ("generated", "contains"):
        fact = _freely(rows, when, target, scorer)
    elif scorer == "judged":
        column = f"{when}_judged_{target}"
        fact = rows[column].to_numpy(np.float64) if column in rows else np.full(len(rows), np.nan)
    else:
        fact = rows[f"{when}_{scorer}_{target}"].to_numpy(np.float64)
    return np.where(rows["task"] == "syntax", preferred, fact)


def succeeded(rows: pd.DataFrame, intent: Intent, scorer: Scorer) -> FloatArray:
    """How far the edit did what it was for on each row.

    Args:
        rows: Rows whose answer the edit should change.
        intent: `replace`: the edited model answers new. `erase`: it no longer answers old.
        scorer: How a fact is scored.

    Returns:
        Per row a number from 0 to 1. For `erase`, NaN where the unedited model did not answer
        old either: there was nothing to erase.
    """
    if intent == "replace":
        return answered(rows, "post", "new", scorer)
    was = answered(rows, "pre", "old", scorer) == 1
    return np.where(was, 1 - answered(rows, "post", "old", scorer), np.nan)


def gate(rows: pd.DataFrame, results: Results, scorer: Scorer) -> NDArray[np.bool_]:
    """Which rows the unedited model knows and whose own case was edited with full success.

    A failure elsewhere means nothing where the model never knew the probe or the edit did not
    even change its own prompt. An edit may cover many cases, so it is the case that is asked.
    """
    edits = results.of("edit")
    took = pd.Series(succeeded(edits, results.intent, scorer) == 1, index=_judged_with(edits))
    reliable = took.groupby(level=[0, 1]).all()
    by_reliable_edit = _judged_with(rows).isin(reliable.index[reliable])
    known = answered(rows, "pre", "old", scorer) == 1
    both: NDArray[np.bool_] = known & by_reliable_edit
    return both


def _judged_with(rows: pd.DataFrame) -> pd.MultiIndex:
    """The edit and case whose success each row hangs on; of cases together, that of all."""
    alone = rows["together"] == ""
    return pd.MultiIndex.from_arrays(
        [
            np.where(alone, rows["edit"], rows["together"]),
            np.where(alone, rows["case"], rows["together"]),
        ]
    )


def _freely(rows: pd.DataFrame, when: When, target: Target, scorer: Scorer) -> FloatArray:
    """Whether each free answer is, or contains, a target; NaN where there is none."""
    is_it = said_to_be if scorer == "generated" else said_among
    found = [
        is_it(answer, [one, *aliases]) if isinstance(answer, str) else np.nan
        for answer, one, aliases in zip(
            rows[f"{when}_generated"], rows[target], rows[f"{target}_aliases"], strict=True
        )
    ]
    return np.array(found, np.float64)


@dataclass(frozen=True, kw_only=True)
class ScoredMetric(Metric):
    """A metric that asks what the model answers.

    Attributes:
        scorer: How a fact is scored; syntax is scored by preference whatever it says.
        beside: Other scorers whose numbers stand beside it, with the scorer's name as ending, for
            facts; those of free answers where there are any.
    """

    scorer: Scorer = "exact"
    beside: tuple[Scorer, ...] = FREE

    def __post_init__(self) -> None:
        """Refuse a scorer that does not exist."""
        for one in (self.scorer, *self.beside):
            if one not in get_args(Scorer):
                choices = ", ".join(get_args(Scorer))
                raise ValueError(f"scorer must be one of {choices}, got {one!r}")

    def __call__(self, results: Results) -> dict[str, Estimate]:
        """Score a run, by each of the scorers.

        Raises:
            ValueError: If `scorer` reads free answers and the model was not asked for any.
        """
        rows = results.rows
        facts = rows["task"].eq("fact") & rows["kind"].ne("failed")
        free = rows.loc[facts, "post_generated"].notna().any()
        if self.scorer in FREE and facts.any() and not free:
            raise ValueError(
                f"scorer={self.scorer} reads free answers, and this run has none: run a causal LM "
                "with max_answer_tokens=24"
            )
        found = self._scored(results, self.scorer)
        for other in self.beside if facts.any() else ():
            if other != self.scorer and (free or other not in FREE):
                found |= {f"{k}_{other}": v for k, v in self._scored(results, other).items()}
        return found

    @abstractmethod
    def _scored(self, results: Results, scorer: Scorer) -> dict[str, Estimate]:
        """Score a run by one scorer."""

    def _with_gated(
        self,
        name: str,
        rows: pd.DataFrame,
        values: FloatArray,
        results: Results,
        scorer: Scorer,
    ) -> dict[str, Estimate]:
        """Mean over all rows, and beside it over the rows that pass the gate."""
        gated = np.where(gate(rows, results, scorer), values, np.nan)
        return self._means(rows, {name: values, f"{name}_{GATE}": gated})
