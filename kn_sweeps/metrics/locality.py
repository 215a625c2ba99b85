"""Locality: whether an edit leaves alone what it was not about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kn_sweeps.metrics.answers import normalised
from kn_sweeps.metrics.base import Metric, Results
from kn_sweeps.metrics.bootstrap import Estimate
from kn_sweeps.metrics.quantities import NATS, SHARE, Quantity


def unchanged(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether each row's answer is what it was before the edit, right or wrong.

    For a fact, the greedy answer is the same; for syntax, the preferred form is.
    """
    same_answer = rows["pre_answer"] == rows["post_answer"]
    same_preference = np.sign(rows["pre_margin"]) == np.sign(rows["post_margin"])
    return np.where(rows["task"] == "syntax", same_preference, same_answer)


@dataclass(frozen=True, kw_only=True)
class Locality(Metric):
    """`locality`, of free answers, of teacher-forced tokens, of each set; and `locality_kl`.

    It has no scorer: the answer is compared with the model's own, not with a target.
    """

    quantities: ClassVar[tuple[Quantity, ...]] = (
        Quantity(
            name="locality",
            meaning="share of unrelated prompts whose answer stays; "
            "1 for an edit that does nothing",
            unit=SHARE,
            counts="neighbours",
            better="higher",
            headline=True,
        ),
        Quantity(
            name="locality_kl",
            meaning="mean KL(before || after) of unrelated prompts, first answer token",
            unit=NATS,
            counts="neighbours",
            better="lower",
        ),
        Quantity(
            name="locality_token",
            meaning="share of unrelated answers' tokens whose argmax stays, under teacher forcing",
            unit=SHARE,
            counts="neighbours that are facts",
            better="higher",
        ),
        Quantity(
            name="locality_generated",
            meaning="share of unrelated prompts whose free answer stays, but for case and the like",
            unit=SHARE,
            counts="neighbours",
            better="higher",
            headline=True,
        ),
        Quantity(
            name="locality_<group>",
            meaning="locality on the neighbours <group>",
            unit=SHARE,
            counts="neighbours of the group",
            better="higher",
        ),
    )

    def __call__(self, results: Results) -> dict[str, Estimate]:
        """Score the neighbours of a run."""
        rows = results.of("neighbour")
        same = unchanged(rows)
        groups = {
            f"locality_{group}": np.where(rows["group"] == group, same, np.nan)
            for group in sorted(rows["group"].unique())
        }
        found = self._means(rows, {"locality": same, **groups, "locality_kl": rows["kl"]})
        facts = rows[rows["task"] == "fact"]
        found |= self._means(facts, {"locality_token": facts["token_kept"]})
        written = rows[rows["post_generated"].notna()]
        stays = written["pre_generated"].map(normalised) == written["post_generated"].map(
            normalised
        )
        return found | self._means(written, {"locality_generated": stays})
