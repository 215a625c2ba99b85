"""Attributions that compare with other prompts are those of plain loops, and cases have theirs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from kn_sweeps.attribution.attributor import Attributor
from kn_sweeps.attribution.baselines import atp, atp_star
from kn_sweeps.attribution.cache import AttributionCache, attributions_kept
from kn_sweeps.attribution.contrast import encoder
from kn_sweeps.attribution.fellows import corrupted
from kn_sweeps.attribution.integrated_gradients import integrated_gradients
from kn_sweeps.attribution.quadrature import Quadrature
from kn_sweeps.cases import Case, Probe, Query, Task, with_fellows
from kn_sweeps.methods.kn import KnowledgeNeurons
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.tokenization import Encoded
from tests.attribution.rows import reference_rows
from tests.reference import corrupting as reference

CLEAN = [
    (Query("The capital of France is ", " ."), "New Delhi"),
    (Query("Ann sees ", " cat ."), "these"),
]
OTHER = [
    (Query("a b The capital of Peru is ", " ."), "New Delhi"),
    (Query("Bob sees ", " cats ."), "these"),
]


def _both(lm: LanguageModel) -> tuple[list[Encoded], list[Encoded]]:
    clean, other = ([lm.encode(*one) for one in some] for some in (CLEAN, OTHER))
    return clean, other


def test_they_are_those_of_plain_loops_together_and_alone(some_lm: LanguageModel) -> None:
    clean, other = _both(some_lm)
    projections = [some_lm.architecture.mlp_output(n) for n in range(some_lm.architecture.layers)]
    patched = atp(some_lm, clean, other)
    fixed = Quadrature("riemann", 3)
    paths = integrated_gradients(some_lm, clean, fixed, baselines=other)
    for n, (one, against) in enumerate(zip(clean, other, strict=True)):
        rows = reference_rows(some_lm, one), reference_rows(some_lm, against)
        for layer, projection in enumerate(projections):
            for found, alphas in ((patched, [1.0]), (paths, [1 / 3, 2 / 3, 1.0])):
                expected = reference.scores(some_lm.model, projection, *rows, alphas)
                torch.testing.assert_close(
                    found[n].scores[layer], expected.float(), atol=1e-8, rtol=1e-5
                )
        (alone,) = atp(some_lm, [one], [against])
        torch.testing.assert_close(alone.scores, patched[n].scores, atol=1e-9, rtol=1e-6)


def test_paths_between_prompts_are_complete(some_lm: LanguageModel) -> None:
    clean, other = _both(some_lm)
    for n, found in enumerate(integrated_gradients(some_lm, clean, baselines=other)):
        assert found.certified.all()
        for layer in range(some_lm.architecture.layers):
            without = reference.patched(
                some_lm.model,
                some_lm.architecture.mlp_output(layer),
                reference_rows(some_lm, clean[n]),
                reference_rows(some_lm, other[n]),
            )
            assert float(found.without[layer]) == pytest.approx(without, rel=1e-6)
            total = float(found.scores[layer].double().sum())
            assert total == pytest.approx(found.value - without, rel=2e-3, abs=1e-9)


def test_gradients_that_pass_all_layers_but_one_are_those_of_plain_loops(
    some_lm: LanguageModel,
) -> None:
    clean, other = _both(some_lm)
    has = some_lm.architecture
    layers = [(has.attention_output(n), has.mlp_output(n)) for n in range(has.layers)]
    together = atp_star(some_lm, clean, other)
    for n, (one, against) in enumerate(zip(clean, other, strict=True)):
        rows = reference_rows(some_lm, one), reference_rows(some_lm, against)
        for layer in range(has.layers):
            expected = reference.dropped(some_lm.model, layers, layer, *rows)
            found = together[n].scores[layer]
            torch.testing.assert_close(found, expected.float(), atol=1e-8, rtol=1e-5)
    assert not some_lm.architecture.mlp_output(0)._forward_hooks


def test_a_neurons_weight_is_how_few_queries_have_it_in_their_cluster(
    some_lm: LanguageModel,
) -> None:
    queries = tuple(some_lm.encode(*one) for one in (*CLEAN, *OTHER))
    whole = integrated_gradients(some_lm, queries)
    clusters = [
        {divmod(i, one.scores.shape[1]) for i, x in enumerate(flat) if x > 0.2 * max(flat)}
        for one in whole
        for flat in (one.scores.flatten().tolist(),)
    ]
    (found,) = Attributor("qrnca")(some_lm, queries[:1], [queries])
    expected = whole[0].scores.clone()
    for layer, neurons in enumerate(expected.tolist()):
        for neuron in range(len(neurons)):
            inside = sum((layer, neuron) in cluster for cluster in clusters)
            expected[layer, neuron] *= max(0.0, math.log(len(queries) / (1 + inside)))
    torch.testing.assert_close(found.scores, expected, atol=1e-9, rtol=1e-4)
    assert found.certified.tolist() == whole[0].certified.tolist()
    assert not torch.allclose(expected, whole[0].scores)


def test_a_prompt_against_itself_has_nothing(some_lm: LanguageModel) -> None:
    clean, _ = _both(some_lm)
    for found in (*atp(some_lm, clean, clean), *atp_star(some_lm, clean, clean)):
        assert float(found.scores.abs().max()) == pytest.approx(0, abs=1e-12)


def _case(n: int, subject: str, old: str, new: str, task: Task = "fact") -> Case:
    text = f"The capital of {subject} is " if task == "fact" else f"The {subject} "
    start = text.index(subject)
    query = Query(text, " .", (start, start + len(subject)))
    probe = Probe(query, old, new, "edit")
    return Case(f"c/{n}", "c", task, probe, seen=(query,))


FACTS = with_fellows(
    [
        _case(0, "France", "Paris", "Rome"),
        _case(1, "Italy", "Rome", "Paris"),
        _case(2, "Peru", "Lima", "Rome"),
    ]
)
PAIRS = with_fellows(
    [
        _case(0, "cat", "sees", "see", "syntax"),
        _case(1, "dog", "sees", "see", "syntax"),
        _case(2, "cats", "see", "sees", "syntax"),
    ]
)


def _text(lm: LanguageModel, case: Case) -> str:
    assert case.edit is not None
    old = case.edit.old
    found = corrupted(case, case.edit.query, (old, case.edit.new), encoder(lm, "probability"))
    return lm.tokenizer.decode(found.ids)


def test_another_subject_or_the_other_form_takes_the_place(some_lm: LanguageModel) -> None:
    assert [name in _text(some_lm, FACTS[0]) for name in ("France", "Italy")] == [False, True]
    assert "France" in _text(some_lm, FACTS[2])
    assert "cats" in _text(some_lm, PAIRS[0])
    assert "cats" not in _text(some_lm, PAIRS[2])


@pytest.mark.parametrize(("kind", "cases"), [("atp", FACTS), ("eap_ig", PAIRS), ("qrnca", FACTS)])
def test_what_is_located_does_not_depend_on_who_is_planned_with_it(
    some_lm: LanguageModel, kind: str, cases: list[Case]
) -> None:
    method = KnowledgeNeurons(attribution=kind)  # type: ignore[arg-type]
    together = method.plan(some_lm, cases)
    group = [case for case in cases if method.group(case) == method.group(cases[-1])]
    alone = method.plan(some_lm, group)
    # By what they show: what is not a number equals nothing.
    assert repr(alone.located[0]) == repr(together.located[-1])


def test_who_has_no_fellow_is_refused(some_lm: LanguageModel) -> None:
    for case in (replace(FACTS[0], fellows=()), with_fellows(FACTS[:1])[0]):
        with pytest.raises(ValueError, match="no fellow to be compared with.*raise limit"):
            KnowledgeNeurons(attribution="atp").plan(some_lm, [case])
        with pytest.raises(ValueError, match="c/0: c has no other query; raise limit"):
            KnowledgeNeurons(attribution="qrnca").plan(some_lm, [case])
    with pytest.raises(ValueError, match="atp needs for each prompt what it is compared with"):
        Attributor("atp")(some_lm, [some_lm.encode(*CLEAN[0])])
    prompt, other = some_lm.encode(*CLEAN[0]), some_lm.encode(*OTHER[1])
    with pytest.raises(ValueError, match="compare prompts with the same target"):
        atp(some_lm, [prompt], [other])


def test_what_it_was_compared_with_is_part_of_what_is_cached(
    causal_lm: LanguageModel, tmp_path: pytest.TempPathFactory
) -> None:
    clean, other = _both(causal_lm)
    third = causal_lm.encode(Query("The capital of Italy is "), "New Delhi")
    with attributions_kept(AttributionCache(tmp_path)):  # type: ignore[arg-type]
        one, two, again = (
            Attributor("atp")(causal_lm, clean[:1], [(against,)])[0].scores
            for against in (other[0], third, other[0])
        )
    assert torch.equal(one, again)
    assert not torch.equal(one, two)
