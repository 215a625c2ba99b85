"""Of a regularised update, what changes its weight most stays as it is, and nothing else."""

from __future__ import annotations

import pytest
import torch

from kn_sweeps.cases import Case, Probe, Query
from kn_sweeps.editing.rect import kept_largest
from kn_sweeps.edits import Dense, Edit, Joint, RankOne, joined, parts
from kn_sweeps.interventions import applied
from kn_sweeps.methods.memit import Memit
from kn_sweeps.methods.rome import Rome
from kn_sweeps.models.language_model import LanguageModel

QUERY = Query("The capital of France is ", ".", (15, 21))
CASE = Case("c0", "P36", "fact", Probe(QUERY, "Paris", "Rome", "edit"), (QUERY,))
EARLIER = RankOne(1, torch.linspace(-1, 1, 40), torch.linspace(1, 2, 24))


def _edits() -> dict[str, Edit]:
    draw = torch.Generator().manual_seed(0)
    return {
        name: Joint(
            tuple(
                RankOne(layer, torch.randn(40, generator=draw), torch.randn(24, generator=draw))
                for layer in (0, 1)
            )
        )
        for name in ("a", "b")
    }


def _changes(edit: Edit) -> dict[int, torch.Tensor]:
    found = {}
    for part in parts(joined([edit])):
        assert not isinstance(part, Joint)
        dense = isinstance(part, Dense)
        rows = () if dense else tuple(x.reshape(-1, x.shape[-1]) for x in (part.u, part.v))
        found[part.layer] = part.change if dense else rows[0].T @ rows[1]
    return found


def test_the_largest_relative_changes_stay(some_lm: LanguageModel) -> None:
    edits = _edits()
    with applied(some_lm, EARLIER):
        alone = kept_largest(some_lm, edits, 0.3, together=False)
        at_once = kept_largest(some_lm, edits, 0.3, together=True)
    assert kept_largest(some_lm, edits, 1.0, together=True) == edits
    before = {layer: some_lm.architecture.values(layer).float() for layer in (0, 1)}
    before[1] = before[1] + torch.outer(EARLIER.u, EARLIER.v)
    assert _changes(at_once["b"]) == {}
    for whole, kept in (
        (edits["a"], alone["a"]),
        (edits["b"], alone["b"]),
        (joined(edits.values()), at_once["a"]),
    ):
        for layer, change in _changes(whole).items():
            relative = (change / before[layer]).abs().flatten()
            mask = torch.zeros(len(relative), dtype=torch.bool)
            mask[relative.argsort(descending=True)[: round(0.3 * len(relative))]] = True
            expected = torch.where(mask.reshape(change.shape), change, 0.0)
            torch.testing.assert_close(_changes(kept)[layer], expected)


def test_methods_that_write_values_can_be_regularised(some_lm: LanguageModel) -> None:
    settings = {"contexts": 0, "steps": 3, "kl_factor": 0.0}
    for method in (
        Rome(layer=1, keep_share=0.2, **settings),  # type: ignore[arg-type]
        Memit((1,), 1.0, keep_share=0.2, **settings),  # type: ignore[arg-type]
    ):
        (change,) = _changes(method.plan(some_lm, [CASE], 0).edits["c0"]).values()
        assert int((change != 0).sum()) == round(0.2 * change.numel())
    with pytest.raises(ValueError, match="keep_share must be above 0 and at most 1, got 0"):
        Rome(layer=1, keep_share=0)
    with pytest.raises(ValueError, match="keep_share must be above 0 and at most 1"):
        Memit((1,), 1.0, keep_share=1.5)
