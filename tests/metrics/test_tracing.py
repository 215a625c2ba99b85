"""Numbers of causal tracing are means over cases at the best layer."""

from __future__ import annotations

import pandas as pd
import pytest

from kn_sweeps.cases import LAST, MIDDLE
from kn_sweeps.metrics.base import Results
from kn_sweeps.metrics.tracing import Tracing

EFFECTS = {"a": (0.1, 0.4), "b": (0.3, 0.2)}


def test_the_best_layer_is_that_of_the_mean() -> None:
    records = [
        {"case": case, "component": "mlp", "role": role, "layer": layer, "effect": effect}
        | {"clean": 0.9, "corrupted": 0.1 if case == "a" else 0.3}
        for case, effects in EFFECTS.items()
        for layer, effect in enumerate(effects)
        for role in (LAST, MIDDLE)
    ]
    found = Tracing()(Results(measurements={"tracing": pd.DataFrame(records)}))
    assert set(found) == {"total_effect", "indirect_effect_mlp_subject"}
    assert found["total_effect"].value == pytest.approx(0.7)
    best = found["indirect_effect_mlp_subject"]
    assert (best.value, best.n) == (pytest.approx(0.3), 2)


def test_a_run_that_traced_nothing_has_no_such_numbers() -> None:
    assert Tracing()(Results()) == {}
