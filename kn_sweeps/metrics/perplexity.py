"""Perplexity: whether an edited model is still as good a model of running text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kn_sweeps.metrics.base import Metric, Results
from kn_sweeps.metrics.bootstrap import Estimate
from kn_sweeps.metrics.quantities import Quantity

NAME = "perplexity"
"""The measurement whose records are read."""


@dataclass(frozen=True, kw_only=True)
class Perplexity(Metric):
    """`perplexity` and `perplexity_before`, and `loss_change`, the mean of the logs' difference.

    One edit that breaks the model can carry a mean of perplexities; the change of the loss, in
    nats a token, has no such tail.
    """

    quantities: ClassVar[tuple[Quantity, ...]] = (
        Quantity(
            name="perplexity",
            meaning="perplexity of running text, edited model",
            unit="perplexity",
            counts="edits",
            better="lower",
        ),
        Quantity(
            name="perplexity_before",
            meaning="perplexity of running text, unedited model",
            unit="perplexity",
            counts="edits",
        ),
        Quantity(
            name="loss_change",
            meaning="change of the mean negative log-probability of running text",
            unit="nats a token",
            counts="edits",
            better="lower",
        ),
    )

    def __call__(self, results: Results) -> dict[str, Estimate]:
        """Average over the edits that were measured."""
        records = results.measurements.get(NAME)
        if records is None or records.empty:
            return {}
        edits = records.drop_duplicates("edit")
        numbers = {
            "perplexity": edits["after"],
            "perplexity_before": edits["before"],
            "loss_change": np.log(edits["after"]) - np.log(edits["before"]),
        }
        return {name: self._mean(values, edits["edit"]) for name, values in numbers.items()}
