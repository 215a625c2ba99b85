"""How much of a data set is asked unless someone says it."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from kn_sweeps.data.base import answer_tokens_for, limit_for


@pytest.mark.parametrize(
    ("dataset", "limit", "answer_tokens"),
    [
        ("kn_sweeps.data.facts.Facts", None, 24),
        ("kn_sweeps.data.pairs.Pairs", None, None),
        ("kn_sweeps.data.counterfact.CounterFact", 5, 24),
        ("kn_sweeps.data.known.Known", 5, None),
        ("kn_sweeps.data.blimp.Blimp", 5, None),
        (f"{__name__}.Mine", 7, None),
        ("nowhere.Nothing", 5, None),
        ("Nothing", 5, None),
    ],
)
def test_a_data_sets_class_says_how_much_of_it_is_asked(
    dataset: str, limit: int | None, answer_tokens: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, __name__, SimpleNamespace(Mine=Mine))
    assert limit_for(dataset) == limit
    assert answer_tokens_for(dataset) == answer_tokens


class Mine:
    usual_limit = 7
