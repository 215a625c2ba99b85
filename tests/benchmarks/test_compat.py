"""What an option changes is measured against our own values, on a model that takes a second."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.compat import Runs, neurons, of_rome, overlap

FACTS = (
    *("dataset=pararel", "dataset.relations=[P36]", "limit=1", "method.steps=2"),
    *("method.contexts=1", "method.context_openings=[The]"),  # the tiny model knows no Therefore
)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs("tiny_gpt2", str(tmp_path))


def test_an_option_of_rome_changes_the_update_and_ours_does_not(runs: Runs) -> None:
    ours, *others = of_rome(runs, FACTS)
    assert (ours["option"], ours["update differs by"]) == ("ours", 0.0)
    assert others[-1]["option"] == "compat=kn_thesis"
    differences = [one["update differs by"] for one in others]
    assert all(isinstance(one, float) and 0 < one < 2 for one in differences)


def test_neurons_are_compared_edit_by_edit(runs: Runs) -> None:
    ours, _, _ = runs("method=kn", *FACTS[:3])
    found = neurons(ours)
    assert all(found.values())
    assert overlap(found, found) == 1.0
    assert overlap(found, {edit: set() for edit in found}) == 0.0
