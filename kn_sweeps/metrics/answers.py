"""The one rule of what a model answers, and of what it means for an edit to succeed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kn_sweeps.cases import Intent
from kn_sweeps.metrics.base import Metric, Results
from kn_sweeps.metrics.bootstrap import Estimate, FloatArray

Scorer = Literal["exact", "argmax", "token", "margin"]
When = Literal["pre", "post"]
Target = Literal["old", "new"]

GATE = "gated"
GATED = "only where the model knew the probe and the edit took"
"""The ending of a number over the rows that pass the gate, and what it says."""


def answered(rows: pd.DataFrame, when: When, target: Target, scorer: Scorer) -> FloatArray:
    """How far each row's model gave a target as its answer.

    For a fact the scorer decides: `exact`, the greedy answer equals the target; `argmax`, every
    target token is the argmax under teacher forcing; `token`, the share of target tokens that
    are; `margin`, the target is preferred to the other. For syntax there are two forms and the
    question is which one is preferred, so every scorer reads the margin log P(new) - log P(old).

    Args:
        rows: Rows of the run.
        when: Before (`pre`) or after (`post`) the edit.
        target: Which of the probe's two answers.
        scorer: How a fact is scored.

    Returns:
        Per row 1 or 0, a share for `token`, or NaN where the scorer cannot tell: `margin` on a
        fact whose old and new are one answer.
    """
    margin = rows[f"{when}_margin"].to_numpy(np.float64)
    preferred = margin > 0 if target == "new" else margin < 0
    if scorer == "margin":
        fact = np.where(rows["old"] == rows["new"], np.nan, preferred)
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
    reliable = edits[succeeded(edits, results.intent, scorer) == 1]
    key = ["edit", "case"]
    by_reliable_edit = pd.MultiIndex.from_frame(rows[key]).isin(
        pd.MultiIndex.from_frame(reliable[key])
    )
    known = answered(rows, "pre", "old", scorer) == 1
    both: NDArray[np.bool_] = known & by_reliable_edit
    return both


@dataclass(frozen=True, kw_only=True)
class ScoredMetric(Metric):
    """A metric that asks what the model answers.

    Attributes:
        scorer: How a fact is scored; syntax is scored by preference whatever it says.
    """

    scorer: Scorer = "exact"

    def __post_init__(self) -> None:
        """Refuse a scorer that does not exist."""
        if self.scorer not in get_args(Scorer):
            choices = ", ".join(get_args(Scorer))
            raise ValueError(f"scorer must be one of {choices}, got {self.scorer!r}")

    def _with_gated(
        self, name: str, rows: pd.DataFrame, values: FloatArray, results: Results
    ) -> dict[str, Estimate]:
        """Mean over all rows, and beside it over the rows that pass the gate."""
        if rows.empty:
            return {}
        gated = np.where(gate(rows, results, self.scorer), values, np.nan)
        return {
            name: self._mean(values, rows["edit"]),
            f"{name}_{GATE}": self._mean(gated, rows["edit"]),
        }
