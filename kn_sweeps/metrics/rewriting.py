"""Rewriting: the scores that papers on CounterFact report, which compare two given answers.

Source: Meng et al. 2022, section 3.4 and appendix. They ask which of two answers is the likelier
one, not what the model answers: docs/metrics.md has the difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import pandas as pd

from kn_sweeps.metrics.base import Metric, Results, clusters
from kn_sweeps.metrics.bootstrap import Estimate, FloatArray
from kn_sweeps.metrics.quantities import PROBABILITY, SHARE, Quantity

Likelihood = Literal["per_token", "joint"]
Answer = Literal["old", "new", "rival"]


def _compared(part: str, where: str, better: str, worse: str) -> tuple[Quantity, Quantity]:
    """What is said of a part: how often one answer is likelier than another, and by how much."""
    return (
        Quantity(
            name=f"{part}_score",
            meaning=f"{where}, {better} is likelier than {worse}",
            unit=SHARE,
            counts="cases",
            better="higher",
        ),
        Quantity(
            name=f"{part}_magnitude",
            meaning=f"{where}, probability of {better} minus that of {worse}",
            unit=PROBABILITY,
            counts="cases",
            better="higher",
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Rewriting(Metric):
    """`efficacy`, `paraphrase` and `neighbourhood`, each `_score` and `_magnitude`, and `score`.

    On the edit's prompt (efficacy) and its paraphrases, with o* the new answer and o the old one,

        score = E[P(o*) > P(o)],  magnitude = E[P(o*) - P(o)]

    of the edited model; on neighbours, with n their own answer, E[P(n) > P(o*)] and
    E[P(n) - P(o*)]. Every case has one vote: first its probes are averaged. `score` is the harmonic
    mean of the three scores. Only facts that are replaced have them.

    Attributes:
        likelihood: P of an answer of several tokens: `per_token`, their geometric mean, as the
            published code has it; `joint`, their product, as the formula does.
    """

    quantities: ClassVar[tuple[Quantity, ...]] = (
        *_compared("efficacy", "on the edit's prompt", "the new answer", "the old one"),
        *_compared(
            "paraphrase", "on phrasings no method has seen", "the new answer", "the old one"
        ),
        *_compared("neighbourhood", "on neighbours", "their own answer", "the edit's new one"),
        Quantity(
            name="score",
            meaning="harmonic mean of efficacy_score, paraphrase_score and neighbourhood_score",
            unit=SHARE,
            counts="cases, those of the score that has fewest",
            better="higher",
        ),
    )

    likelihood: Likelihood = "per_token"

    def __post_init__(self) -> None:
        """Refuse a likelihood that does not exist."""
        if self.likelihood not in get_args(Likelihood):
            choices = ", ".join(get_args(Likelihood))
            raise ValueError(f"likelihood must be one of {choices}, got {self.likelihood!r}")

    def __call__(self, results: Results) -> dict[str, Estimate]:
        """Score the facts of a run."""
        if results.intent != "replace":
            return {}
        parts = {
            "efficacy": self._of_cases(results.of("edit"), "new", "old"),
            "paraphrase": self._of_cases(results.of("rephrase"), "new", "old"),
            "neighbourhood": self._of_cases(results.of("neighbour"), "old", "rival"),
        }
        found = {
            f"{part}_{name}": self._mean(cases[name], cases["cluster"])
            for part, cases in parts.items()
            for name in ("score", "magnitude")
            if not cases.empty
        }
        if all(f"{part}_score" in found for part in parts):
            found["score"] = self._harmonic(list(parts.values()))
        return found

    def _of_cases(self, rows: pd.DataFrame, better: Answer, worse: Answer) -> pd.DataFrame:
        """Columns `cluster`, `score` and `magnitude`, a row a case; NaN where none is judged."""
        rows = rows[rows["task"] == "fact"]
        one, other = self._log_likelihood(rows, better), self._log_likelihood(rows, worse)
        comparable = np.isfinite(one) & np.isfinite(other) & (rows[better] != rows[worse])
        compared = {
            "score": np.where(comparable, one > other, np.nan),
            "magnitude": np.where(comparable, np.exp(one) - np.exp(other), np.nan),
        }
        named = rows[["case"]].assign(cluster=clusters(rows), **compared)
        return named.groupby(["cluster", "case"]).mean().reset_index()

    def _log_likelihood(self, rows: pd.DataFrame, answer: Answer) -> FloatArray:
        found: FloatArray = rows[f"post_log_prob_{answer}"].to_numpy(np.float64)
        if self.likelihood == "joint":
            return found
        return found / rows[f"{answer}_ids"].str.len().to_numpy(np.float64)

    def _harmonic(self, parts: Sequence[pd.DataFrame]) -> Estimate:
        """The harmonic mean of the scores; edits are drawn with all their cases."""
        judged = [cases.dropna(subset="score") for cases in parts]
        n = min(map(len, judged))
        if not n:
            return Estimate(None, None, None, 0)
        names = sorted(set().union(*(cases["cluster"] for cases in judged)))
        by_cluster = np.stack(
            [
                cases.groupby("cluster")["score"].agg(["sum", "count"]).reindex(names, fill_value=0)
                for cases in judged
            ]
        )

        def statistic(weights: FloatArray) -> FloatArray:
            sums, counts = np.moveaxis(weights @ by_cluster, 2, 0)
            with np.errstate(divide="ignore", invalid="ignore"):
                harmonic: FloatArray = len(parts) / (counts / sums).sum(0)
            return harmonic

        return self.bootstrap.estimate(statistic, names, n)
