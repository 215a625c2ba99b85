"""Parts are those of all cases' sums, and add up to 1."""

from __future__ import annotations

import pandas as pd
import pytest

from kn_sweeps.metrics.base import Results
from kn_sweeps.metrics.paths import Paths


def _records(*rows: tuple[str, str, float, float, float]) -> pd.DataFrame:
    about = {"correlation": 0.5, "overlap": 0.2, "certified": True}
    return pd.DataFrame(
        {"case": case, "neurons": neurons, "direct": d, "mlps": m, "attention": a}
        | {"whole": d + m + a, **about}
        for case, neurons, d, m, a in rows
    )


def test_parts_are_of_the_best_neurons_of_all_cases() -> None:
    records = _records(
        ("a", "best", 0.1, 0.2, 0.0), ("a", "best", 0.1, 0.0, -0.1), ("b", "best", 0.3, 0.2, 0.2)
    )
    every = _records(("a", "all", 9.0, 9.0, 9.0))
    both = pd.concat([records, every])
    found = Paths()(Results(measurements={"paths": both}))
    values = {name.removeprefix("paths_"): one.value for name, one in found.items()}
    assert (values["direct"], values["mlps"], values["attention"]) == pytest.approx((0.5, 0.4, 0.1))
    assert (values["correlation"], values["overlap"], values["uncertified"]) == (0.5, 0.2, 0.0)
    low, high = found["paths_direct"].low, found["paths_direct"].high
    assert low is not None
    assert high is not None
    assert low <= 0.5 <= high
    assert found["paths_direct"].n == 2


def test_of_nothing_there_is_no_part() -> None:
    assert Paths()(Results()) == {}
    found = Paths()(Results(measurements={"paths": _records(("a", "best", 0.0, 0.0, 0.0))}))
    assert found["paths_direct"].value is None
