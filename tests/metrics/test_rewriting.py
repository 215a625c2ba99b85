"""The scores of papers on CounterFact, against a computation by loops and by counting."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kn_sweeps.metrics.base import Results
from kn_sweeps.metrics.rewriting import Rewriting
from tests.reference.rewriting import rewriting

Make = Callable[..., dict[str, Any]]


def _facts(row: Make) -> list[dict[str, Any]]:
    """Six facts with as many probes as it happens, and answers of one token to three."""
    draw = np.random.default_rng(0)
    rows = []
    for n in range(6):
        kinds = ["edit", *["rephrase"] * draw.integers(1, 4), *["neighbour"] * draw.integers(1, 6)]
        for kind in kinds:
            answers = {"rival": "Rome", "old": "Oslo", "new": "Oslo"} if kind == "neighbour" else {}
            rows.append(
                row(f"e{n}", kind=kind, **answers)
                | {f"{a}_ids": [1] * draw.integers(1, 4) for a in ("old", "new", "rival")}
                | {f"post_log_prob_{a}": -5 * draw.random() for a in ("old", "new", "rival")}
            )
    return rows


def test_every_number_is_what_loops_over_cases_make_of_it(row: Make) -> None:
    rows = _facts(row)
    found = Rewriting()(Results(pd.DataFrame(rows)))
    expected = rewriting(rows)
    assert {name: one.value for name, one in found.items()} == pytest.approx(expected)
    assert {one.n for one in found.values()} == {6}
    for one in found.values():
        assert one.low is not None
        assert one.high is not None
        assert one.low <= one.value <= one.high  # type: ignore[operator]


def test_a_joint_probability_counts_every_token_and_a_geometric_mean_does_not(row: Make) -> None:
    long = row(old_ids=[1], new_ids=[1, 2, 3], post_log_prob_old=-1.0, post_log_prob_new=-1.5)
    rows = Results(pd.DataFrame([long]))
    per_token, joint = (Rewriting(likelihood=one)(rows) for one in ("per_token", "joint"))  # type: ignore[arg-type]
    assert (per_token["efficacy_score"].value, joint["efficacy_score"].value) == (1, 0)
    gap = per_token["efficacy_magnitude"].value
    assert gap == pytest.approx(math.exp(-0.5) - math.exp(-1))
    with pytest.raises(ValueError, match="likelihood must be one of per_token, joint, got 'mean'"):
        Rewriting(likelihood="mean")  # type: ignore[arg-type]


def test_a_tie_is_no_success_and_one_score_of_zero_makes_the_harmonic_mean_zero(row: Make) -> None:
    rows = [
        row(post_log_prob_old=-1.0, post_log_prob_new=-1.0),
        row(kind="rephrase"),
        row(kind="neighbour", old="Oslo", new="Oslo", rival="Rome", post_log_prob_rival=-9.0),
    ]
    found = Rewriting()(Results(pd.DataFrame(rows)))
    scores = {name: one.value for name, one in found.items() if name.endswith("score")}
    assert scores == {
        "efficacy_score": 0,
        "paraphrase_score": 1,
        "neighbourhood_score": 1,
        "score": 0,
    }


def test_a_neighbour_whose_own_answer_is_the_edits_new_one_or_has_no_rival_is_not_judged(
    row: Make,
) -> None:
    same = row(kind="neighbour", old="Rome", new="Rome", rival="Rome", post_log_prob_rival=-1.0)
    none = row(kind="neighbour", old="Oslo", new="Oslo")
    found = Rewriting()(Results(pd.DataFrame([same, none])))
    assert {(one.value, one.n) for one in found.values()} == {(None, 0)}


@pytest.mark.parametrize("given", [{"intent": "erase"}, {"task": "syntax"}])
def test_only_facts_that_are_replaced_have_scores(row: Make, given: dict[str, str]) -> None:
    rows = [row(kind=kind, **given) for kind in ("edit", "rephrase", "neighbour")]
    assert Rewriting()(Results(pd.DataFrame(rows))) == {}
