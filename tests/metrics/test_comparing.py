"""Comparing runs: pairs and seeds as loops draw them, and the power that is promised."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kn_sweeps.metrics.base import Results
from kn_sweeps.metrics.bootstrap import Bootstrap
from kn_sweeps.metrics.comparing import (
    Sampled,
    blocks,
    detectable,
    difference,
    edited,
    on_cases,
    over_runs,
    sampled,
)
from kn_sweeps.metrics.generality import Generality
from kn_sweeps.metrics.reliability import Reliability
from kn_sweeps.metrics.significance import paired_test

Make = Callable[..., dict[str, Any]]
DRAWS = Bootstrap(resamples=60, seed=3)


def _run(row: Make, seed: int, edit_of: Callable[[int], str], rate: float = 0.5) -> Results:
    """Twelve cases with one phrasing to three; an edit may cover several."""
    draw, sizes = np.random.default_rng(seed), np.random.default_rng(0)
    rows = []
    for n in range(12):
        for kind in ("edit", *["rephrase"] * sizes.integers(1, 4)):
            said = "Rome" if draw.random() < rate else "Paris"
            rows.append(row(edit_of(n), kind=kind, post_answer=said) | {"case": f"c{n}"})
    return Results(pd.DataFrame(rows))


def _own(n: int) -> str:
    return f"c{n}"


def _shared(n: int) -> str:
    return f"of {n // 3}"


def _value(rows: pd.DataFrame, *, macro: bool) -> float:
    success = rows["post_exact_new"].astype(float)
    return float(success.groupby(rows["edit"]).mean().mean() if macro else success.mean())


@pytest.mark.parametrize("kind", ["edit", "rephrase"])
def test_a_difference_is_that_of_the_same_blocks_drawn_for_both(row: Make, kind: str) -> None:
    runs = _run(row, 1, _own, 0.8), _run(row, 2, _shared, 0.3)
    metric = Generality() if kind == "rephrase" else Reliability()
    name, macro = ("generality", True) if kind == "rephrase" else ("reliability", False)
    number = blocks(*runs)
    one, other = (sampled([metric], run)[name] for run in runs)
    found = difference(one, other, number, DRAWS)

    # Cases that share an edit in the second run are one block in both: four of them.
    assert {frozenset(c for c in number if number[c] == b and c[0] == "c") for b in range(4)} == {
        frozenset(f"c{3 * b + n}" for n in range(3)) for b in range(4)
    }
    tables = [run.rows[run.rows["kind"] == kind] for run in runs]
    of_block = [[t[t["case"].map(number) == b] for b in range(4)] for t in tables]
    drawn = []
    for weights in np.concatenate(list(DRAWS.weights(4))).astype(int):
        values = []
        for some in of_block:
            again = [
                some[b].assign(edit=some[b]["edit"] + f" {n}")
                for b, times in enumerate(weights)
                for n in range(times)
            ]
            values.append(_value(pd.concat(again), macro=macro))
        drawn.append(values[0] - values[1])
    low, high = np.quantile(drawn, [0.025, 0.975])
    own = [_value(t, macro=macro) for t in tables]
    assert found.estimate.value == pytest.approx(own[0] - own[1])
    assert (found.estimate.low, found.estimate.high) == pytest.approx((low, high))
    alone = [[_value(block, macro=macro) for block in some] for some in of_block]
    assert found.p == paired_test(*alone)
    assert found.estimate.n == 4


def test_a_method_is_no_different_from_itself(row: Make) -> None:
    run = _run(row, 1, _own)
    one = sampled([Reliability()], run)["reliability"]
    found = difference(one, one, blocks(run, run), DRAWS)
    assert (found.estimate.value, found.estimate.low, found.estimate.high) == (0, 0, 0)
    assert found.p == 1


def test_only_cases_that_could_be_edited_under_both_are_compared(row: Make) -> None:
    run = _run(row, 1, _own)
    failed = {**row("c3"), "case": "c3", "kind": "failed"}
    other = Results(pd.concat([run.rows[run.rows["case"] != "c3"], pd.DataFrame([failed])]))
    assert edited(run) - edited(other) == {"c3"}
    assert {*on_cases(run, edited(other)).rows["case"]} == edited(other)


def test_seeds_are_averaged_and_both_they_and_their_edits_are_drawn(row: Make) -> None:
    runs = [_run(row, seed, _own, rate) for seed, rate in enumerate((0.2, 0.5, 0.9))]
    parts = [sampled([Reliability()], run)["reliability"] for run in runs]
    found = over_runs(parts, Bootstrap())
    means = [float(_value(r.rows[r.rows["kind"] == "edit"], macro=False)) for r in runs]
    assert found.value == pytest.approx(np.mean(means))
    assert found.n == 36
    # The variance of a draw: that of the means drawn, and of the edits drawn within each.
    within = np.mean([m * (1 - m) / 12 for m in means])
    spread = np.sqrt((np.var(means) + within) / 3)
    assert found.high is not None
    assert found.low is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.1)
    alone = over_runs(parts[:1], Bootstrap())
    assert alone.value == pytest.approx(means[0])


def _shares(values: np.ndarray) -> Sampled:
    def statistic(weights: np.ndarray) -> np.ndarray:
        return np.asarray(weights @ values / weights.sum(1))

    names = tuple(f"e{n}" for n in range(len(values)))
    return Sampled(float(values.mean()), None, None, len(values), statistic, names)


def test_the_difference_that_is_said_to_be_found_is_found_in_four_of_five() -> None:
    draw, n = np.random.default_rng(0), 100
    promised = detectable(_shares(np.arange(n) % 2.0), Bootstrap(), share=True)
    shares = (
        draw.random((2, 2000, n))
        < np.array([0.5 - promised / 2, 0.5 + promised / 2])[:, None, None]
    )
    means, variances = shares.mean(2), shares.var(2) / n
    found = np.abs(means[1] - means[0]) / np.sqrt(variances.sum(0)) > 1.96
    assert found.mean() == pytest.approx(0.8, abs=0.04)


def test_edits_that_are_all_alike_promise_no_certainty() -> None:
    few, many = (detectable(_shares(np.ones(n)), Bootstrap(), share=True) for n in (20, 500))
    assert 0.2 < few < 0.3
    assert many < 0.02
    assert detectable(_shares(np.full(20, 240.3)), Bootstrap()) is None


def test_the_documented_differences_are_those_that_are_promised() -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    counts, promised = (
        [float(cell.replace(",", "")) for cell in re.findall(r"[\d.,]+", line)]
        for line in re.findall(r"^\| (?:edits|`mde`) \| ([\d., |]+)$", page, re.M)
    )
    for n, expected in zip(counts, promised, strict=True):
        found = detectable(_shares(np.arange(n) % 2.0), Bootstrap(resamples=4000), share=True)
        assert found == pytest.approx(expected, rel=0.09), n
