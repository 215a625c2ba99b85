"""Records have the curves, the agreement and the cost of every attribution."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from kn_sweeps.attribution.attributor import Attributor
from kn_sweeps.attribution.faithfulness import curves
from kn_sweeps.cases import Case, Probe, Query, with_fellows
from kn_sweeps.measurements.faithfulness import Faithfulness, agreement
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.plans import NOTHING


def _case(name: str, text: str, old: str) -> Case:
    return Case(name, "P36", "fact", Probe(Query(text, " ."), old, "Rome", "edit"))


CASES = [_case("a", "The capital of France is ", "Paris"), _case("b", "Ann sees ", "New Delhi")]
KINDS = ("integrated_gradients", "grad_x_act", "random")


def test_records_are_the_curves_of_each_attribution(some_lm: LanguageModel) -> None:
    settings = Faithfulness(attributions=KINDS, known=False)
    found = pd.DataFrame(settings.begin(some_lm, CASES, 3)(CASES, NOTHING, []))
    assert len(found) == 2 * 3 * 2 * 9
    prompts = [some_lm.encode(c.edit.query, c.edit.old) for c in CASES if c.edit is not None]
    scores = torch.stack(
        [
            torch.stack([one.scores for one in Attributor(kind, seed=3)(some_lm, prompts)])
            for kind in KINDS
        ]
    )
    ks = sorted(set(found["k"]))
    expected = curves(some_lm, prompts, scores, ks)
    for (case, kind, curve, k), rows in found.groupby(["case", "attribution", "curve", "k"]):
        at = (int(curve == "kept"), KINDS.index(kind), "ab".index(case), ks.index(k))
        assert rows["probability"].item() == pytest.approx(float(expected[at]), rel=1e-6)
    best = found[found["attribution"] == "integrated_gradients"]
    assert (best["correlation"].round(9) == 1).all()
    assert (best["overlap"] == 1).all()
    assert (best["certified"] == 1).all()
    cost = found.groupby("attribution")[["forward", "backward"]].first().sum(axis=1)
    assert cost["integrated_gradients"] > 2 * cost["grad_x_act"] > 2


def test_what_a_model_cannot_be_attributed_by_is_left_out_with_a_word(
    lm_of: object, caplog: pytest.LogCaptureFixture
) -> None:
    lm = lm_of("bert")  # type: ignore[operator]
    settings = Faithfulness(attributions=("log_prob_increase", "activation"), known=False)
    found = settings.begin(lm, CASES, 0)(CASES[:1], NOTHING, [])
    assert {record["attribution"] for record in found} == {"activation"}
    assert "without log_prob_increase" in caplog.text


def test_who_has_nothing_to_be_compared_with_has_the_other_attributions(
    causal_lm: LanguageModel, caplog: pytest.LogCaptureFixture
) -> None:
    texts = [("a", "France", "Paris"), ("b", "Italy", "Rome")]
    paired = with_fellows(
        [
            Case(
                n,
                "P36",
                "fact",
                Probe(Query(f"Ann sees {s} ", "", (9, 9 + len(s))), o, "a", "edit"),
            )
            for n, s, o in texts
        ]
    )
    cases = [*paired, _case("c", "Ann sees ", "New Delhi")]
    settings = Faithfulness(attributions=("grad_x_act", "atp", "qrnca"), known=False)
    found = pd.DataFrame(settings.begin(causal_lm, cases, 0)(cases, NOTHING, []))
    assert set(found[found["attribution"] == "atp"]["case"]) == {"a", "b"}
    assert set(found[found["attribution"] == "grad_x_act"]["case"]) == {"a", "b", "c"}
    assert "without atp, qrnca for 1 of 3 cases" in caplog.text


def test_logits_are_compared_and_probabilities_read(causal_lm: LanguageModel) -> None:
    one, other = (
        Faithfulness(("grad_x_act",), measure, known=False).begin(causal_lm, CASES, 0)(
            CASES[:1], NOTHING, []
        )
        for measure in ("probability", "logit_difference")
    )
    assert one[0]["probability"] == pytest.approx(other[0]["probability"])
    assert [r["probability"] for r in one] != [r["probability"] for r in other]


def test_agreement_is_in_ranks_and_in_the_best() -> None:
    scores = torch.tensor([[3.0, 2, 1, 0], [30.0, 20, 1, 0], [0.0, 1, 2, 3], [1.0, 1, 1, 1]])
    correlations, overlaps = agreement(scores, 2)
    assert correlations[:3] == pytest.approx([1, 1, -1])
    assert overlaps[:3] == [1, 1, 0]
    assert correlations[3] != correlations[3]  # nothing to correlate


def test_attributions_that_repeat_are_refused() -> None:
    with pytest.raises(ValueError, match="each once"):
        Faithfulness(attributions=("random", "random"))
    with pytest.raises(ValueError, match="choose from integrated_gradients"):
        Faithfulness(attributions=("chance",))  # type: ignore[arg-type]
