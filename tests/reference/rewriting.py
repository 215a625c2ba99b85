"""The scores of Meng et al. 2022 by loops: every case one vote, strictly likelier is likelier.

Formulas (section 3.4 and appendix), with o* the new answer, o the old one, n a neighbour's own:
    efficacy and paraphrase:  mean over cases of [P(o*) > P(o)] and of P(o*) - P(o)
    neighbourhood:            mean over cases of [P(n) > P(o*)] and of P(n) - P(o*)
P of several tokens is exp of the mean log-probability of its tokens, as their code has it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import fmean, harmonic_mean
from typing import Any

ASKED = {
    "efficacy": ("edit", "new", "old"),
    "paraphrase": ("rephrase", "new", "old"),
    "neighbourhood": ("neighbour", "old", "rival"),
}


def rewriting(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Every score and magnitude of some facts, and `score`."""
    found = {}
    every = list(rows)
    for part, (kind, better, worse) in ASKED.items():
        wins, gaps = defaultdict(list), defaultdict(list)
        for row in every:
            if row["kind"] == kind:
                p, q = (
                    math.exp(row[f"post_log_prob_{answer}"] / len(row[f"{answer}_ids"]))
                    for answer in (better, worse)
                )
                wins[row["case"]].append(float(p > q))
                gaps[row["case"]].append(p - q)
        found[f"{part}_score"] = fmean(map(fmean, wins.values()))
        found[f"{part}_magnitude"] = fmean(map(fmean, gaps.values()))
    found["score"] = harmonic_mean([found[f"{part}_score"] for part in ASKED])
    return found
