"""The benchmark's own sums, on a model that takes a second."""

from __future__ import annotations

import pytest
import torch

from benchmarks.attribution import measure
from benchmarks.measuring import (
    matrix_product_rate,
    operations,
    peak_memory,
    random_prompts,
    table,
)
from tests.conftest import random_lm


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_both_ways_are_measured_on_the_same_prompts(family: str) -> None:
    lm = random_lm(family)
    case = measure(lm, random_prompts(lm, 2, 6), converged=64)
    assert case.ratio == pytest.approx(case.reference_seconds_per_prompt / case.seconds_per_prompt)
    assert case.worst_relative_residual <= 1e-3
    assert case.uncertified_layers == 0
    assert case.min_jaccard == 1
    assert case.half_rows_largest_difference < 1e-6
    assert case.prompts == 2


def test_operations_memory_and_tables_are_counted() -> None:
    a = torch.randn(30, 40)
    assert operations(lambda: a @ a.T) == 2 * 30 * 30 * 40
    with peak_memory(torch.device("cpu")) as peak:
        big = torch.ones(20_000_000)
        assert float(big.sum()) > 0
        matrix_product_rate(torch.device("cpu"), torch.float32)
    assert peak.bytes >= 80_000_000
    assert table([{"a": 1, "b": 0.25}]).splitlines()[2] == "| 1 | 0.25 |"
