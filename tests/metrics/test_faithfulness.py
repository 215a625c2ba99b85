"""Areas are those of the mean curve over log k, whatever scale its cases have."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kn_sweeps.metrics.base import Results
from kn_sweeps.metrics.faithfulness import Faithfulness, areas

KS = (0, 1, 10, 100)


def _records(**given: dict[str, tuple[float, ...]]) -> pd.DataFrame:
    """Records of an attribution; by case and curve, the probability at each k."""
    return pd.DataFrame(
        {"case": case, "attribution": "random", "curve": curve, "k": k, "probability": p}
        | {"correlation": 0.5, "overlap": 0.25, "forward": 1.0, "backward": 2.0}
        for case, by_curve in given.items()
        for curve, values in by_curve.items()
        for k, p in zip(KS, values, strict=True)
    )


def _measured(records: pd.DataFrame) -> dict[str, float | None]:
    found = Faithfulness()(Results(measurements={"faithfulness": records}))
    return {name.removeprefix("faithfulness_"): one.value for name, one in found.items()}


def test_a_straight_line_over_log_k_has_the_area_of_its_middle() -> None:
    ks = np.array([1.0, 3.0, 10.0, 100.0])
    line = np.log(ks) / np.log(100)
    assert areas(ks, np.stack([line, 1 - line, np.ones(4)])) == pytest.approx([0.5, 0.5, 1])


def test_areas_are_shares_of_what_is_there() -> None:
    records = _records(
        a={"suppressed": (0.8, 0.8, 0.4, 0.0), "kept": (0.0, 0.0, 0.4, 0.8)},
        b={"suppressed": (0.4, 0.2, 0.2, 0.2), "kept": (0.2, 0.3, 0.3, 0.4)},
    )
    found = _measured(records)
    # Kept: (0.3 - 0.2, 0.7 - 0.2, 1.2 - 0.2) / (1.2 - 0.2); suppressed: (1.0, 0.6, 0.2) / 1.2.
    assert found["kept_random"] == pytest.approx((0.1 + 0.5) / 4 + (0.5 + 1.0) / 4)
    assert found["distance_random"] == pytest.approx(1 - (0.6 + 1.5) / 4)
    assert found["suppressed_random"] == pytest.approx(1 - (1.6 + 0.8) / 4 / 1.2)
    assert (found["correlation_random"], found["overlap_random"]) == (0.5, 0.25)
    assert found["passes_random"] == 3


def test_more_than_the_whole_answer_is_as_far_off_as_less() -> None:
    more, less = (
        _measured(_records(a={"suppressed": (0.5,) * 4, "kept": (0.1, p, p, 0.5)}))
        for p in (0.7, 0.3)
    )
    assert more["distance_random"] == pytest.approx(less["distance_random"])
    assert (more["kept_random"] or 0) > 1 > (less["kept_random"] or 0)


def test_where_neurons_add_nothing_there_is_no_share_of_it() -> None:
    found = _measured(_records(a={"suppressed": (0.5,) * 4, "kept": (0.5, 0.1, 0.2, 0.5)}))
    assert found["kept_random"] is None
    assert found["suppressed_random"] == pytest.approx(0)


def test_a_run_that_measured_nothing_has_no_such_numbers() -> None:
    assert Faithfulness()(Results()) == {}
