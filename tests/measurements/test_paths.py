"""Paths add up to the whole, and are what freezing leaves of attributions."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from kn_sweeps.attribution.integrated_gradients import integrated_gradients
from kn_sweeps.cases import Case, Probe, Query
from kn_sweeps.measurements.paths import Paths
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.plans import NOTHING


def _case(name: str, text: str, old: str) -> Case:
    return Case(name, "P36", "fact", Probe(Query(text, " ."), old, "Rome", "edit"))


CASES = [_case("a", "The capital of France is ", "Paris"), _case("b", "Ann sees ", "New Delhi")]


def test_records_are_sums_of_what_freezing_leaves(some_lm: LanguageModel) -> None:
    found = pd.DataFrame(Paths(top=4, known=False).begin(some_lm, CASES, 0)(CASES, NOTHING, []))
    layers = some_lm.architecture.layers
    assert len(found) == 2 * 2 * layers
    parts = found[["direct", "mlps", "attention"]].sum(axis=1)
    assert parts.to_numpy() == pytest.approx(found["whole"].to_numpy(), abs=1e-12)
    prompts = [some_lm.encode(c.edit.query, c.edit.old) for c in CASES if c.edit is not None]
    (whole, direct) = (
        integrated_gradients(some_lm, prompts, frozen=frozen)
        for frozen in ("nothing", "attention and MLPs")
    )
    for n, case in enumerate("ab"):
        own = found[found["case"] == case].set_index(["neurons", "layer"])
        every = own.loc["all"]
        for name, one in (("whole", whole[n]), ("direct", direct[n])):
            # A layer's attributions sum up to what its neurons do on that path.
            changes = one.value - one.without
            off = (torch.tensor(every[name].to_numpy()) - changes).abs()
            assert (off <= 1e-3 * changes.abs().clamp(min=1e-6)).all()
        best = own.loc["best"]
        assert best["count"].sum() == 4
        assert best["whole"].sum() == pytest.approx(
            float(whole[n].scores.flatten().topk(4)[0].sum())
        )
        last = every.loc[layers - 1]
        assert last["direct"] == pytest.approx(last["whole"], rel=2e-3)
        assert abs(every["attention"].loc[0]) > 1e-3 * abs(every["whole"].loc[0])
        assert own["certified"].all()


def test_a_logit_difference_has_its_paths_too(causal_lm: LanguageModel) -> None:
    settings = Paths("logit_difference", known=False)
    found = pd.DataFrame(settings.begin(causal_lm, CASES, 0)(CASES[:1], NOTHING, []))
    assert found["certified"].all()
    assert Paths().begin(causal_lm, CASES, 0)(CASES, NOTHING, []) == []  # none is known


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(ValueError, match="top must be at least 1"):
        Paths(top=0)
    with pytest.raises(ValueError, match="choose from probability"):
        Paths(measure="odds")  # type: ignore[arg-type]
